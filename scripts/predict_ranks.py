#!/usr/bin/env python3
"""Predicts how long an update takes with more ranks, from the log of a run with one rank and of one with two.

    python3 scripts/predict_ranks.py runs/one/log.jsonl runs/two/log.jsonl --bandwidth 1.25 --latency 0.1

An update of n ranks takes play / n + gather(n) + learn: the ranks divide the images, each gets the others' observations,
and all learn from all of them. play and learn are the medians of the first log, whose process must have had one rank's
cores to itself; the observations of all images are those that a rank got from the other one of the second log, times two.
Of these bytes, (n - 1) / n come over the rank's link, at --bandwidth (GB/s); three messages an update (a stop, lengths,
observations) take 2 log2(n) times --latency (ms) each.
"""

import argparse
import json
import math
import statistics


def medians(path):
    # The first update has no known answers of the dense model, and starts everything.
    lines = [json.loads(line) for line in open(path, encoding="utf-8")][1:]
    return {key: statistics.median(line[key] for line in lines) for key in ("play_s", "gather_s", "learn_s", "gathered_mb")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", help="log.jsonl of a run with one rank")
    parser.add_argument("two", help="log.jsonl of the same run with two ranks")
    parser.add_argument("--bandwidth", type=float, default=1.25, help="of a rank's link, GB/s (1.25: 10 Gbit Ethernet)")
    parser.add_argument("--latency", type=float, default=0.1, help="of a message, ms")
    args = parser.parse_args()
    one, two = medians(args.one), medians(args.two)
    play, learn, megabytes = one["play_s"], one["learn_s"], 2 * two["gathered_mb"]
    print(f"play {play:.3f} s, learn {learn:.3f} s, observations {megabytes:.1f} MB an update")
    print(f"measured with two ranks: play {two['play_s']:.3f} s, gather {two['gather_s']:.3f} s, learn {two['learn_s']:.3f} s")
    print("| ranks | play s | gather s | learn s | update s | speed-up |")
    print("| --- | --- | --- | --- | --- | --- |")
    for ranks in (1, 2, 4, 8, 16, 64):
        gather = 0.0
        if ranks > 1:
            latency = 3 * 2 * math.log2(ranks) * args.latency / 1000
            gather = megabytes / 1000 * (ranks - 1) / ranks / args.bandwidth + latency
        update = play / ranks + gather + learn
        print(f"| {ranks} | {play / ranks:.3f} | {gather:.3f} | {learn:.3f} | {update:.3f} | {(play + learn) / update:.2f} |")
    print(f"with any number of ranks, learning alone allows {(play + learn) / learn:.1f}")


if __name__ == "__main__":
    main()
