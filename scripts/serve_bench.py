#!/usr/bin/env python3
"""Measures `vitrim serve` on this machine: how much of the engine arrives, latency under load, overload, a surge, rivals.

    cargo build --release --workspace --bin vitrim
    python3 scripts/serve_bench.py --model ../shared/models/deit_tiny_patch16_224 --photos ../shared/data/imagenet-samples \\
        --policy runs/my/policy --max-drop 1 --out serve.json

Open loop with Poisson arrivals (serve_load.py), on loopback; the client shares the cores with the server, and every case
says what it took of them. The first run installs what it needs into a virtual environment (--venv). Run it on an otherwise
idle machine. JSON goes to --out, progress to stderr, Markdown to stdout.

Cases, each with fresh servers:

engine    images/s at saturation through HTTP with raw pixels, beside `vitrim bench --streams` (the best of batch 1, 8 and all photos, up to 256),
          in alternating rounds
jpeg      the same with JPEG bodies, beside what decoding (as `bench` reports it) and computing take one after the other
latency   of single requests, then at 80 % and at 200 % of the capacity, with JPEG bodies
surge     needs --policy: 150 % of the dense capacity with --max-drop and --target-p99; the loss is counted on the answers
rivals    requests/s at which p99 stays within --p99, of each server on the same photos
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import environment

HERE = Path(__file__).resolve().parent
LIGHT = ["numpy", "pillow", "httptools", "uvloop"]
PEERS = ["torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "litserve", "ray[serve]"]
CASES = ["engine", "jpeg", "latency", "surge", "rivals"]
MODEL = "model"
#: Requests in flight when a server is saturated by a closed loop.
IN_FLIGHT = 32


def main():
    args = arguments()
    environment.enter(args.venv, LIGHT + (PEERS if "rivals" in args.cases else []))
    if os.getloadavg()[0] > 0.5:
        note(f"warning: the machine is not idle (load {os.getloadavg()[0]:.1f}): figures will be wrong")
    bench = Bench(args)
    results = {"settings": {name: str(value) for name, value in vars(args).items()}, "cores": args.threads}
    for case in args.cases:
        note(f"case {case}")
        results[case] = getattr(bench, case)()
        if args.out:
            Path(args.out).write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder in timm's layout")
    parser.add_argument("--photos", required=True, help="folder of JPEG files; folders named by synset give labels")
    parser.add_argument("--policy", help="policy folder, calibrated in --dtype")
    parser.add_argument("--max-drop", type=float, default=1.0, help="of the surge, pp")
    parser.add_argument("--target-p99", type=float, default=100.0, help="of the surge, ms")
    parser.add_argument("--p99", type=float, default=250.0, help="limit of the rivals' case, ms")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16", "int8"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rivals", nargs="+", help="[default: all of serve_rivals.py]")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of each load")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of engine and jpeg")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=int, help="take only so many photos")
    parser.add_argument("--serve", default="", help="more options for `vitrim serve`, in one word")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--venv", default=".peers", help="virtual environment of this script and of the rivals")
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--vitrim", default=f"{target}/release/vitrim", help="our binary")
    args = parser.parse_args()
    if not Path(args.vitrim).exists():
        parser.error(f"no {args.vitrim}: run `cargo build --release`, or name the binary with --vitrim")
    if "surge" in args.cases and not args.policy:
        args.cases = [case for case in args.cases if case != "surge"]
        note("case surge is left out: it needs --policy")
    return args


def note(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    """The photos as requests, and the cases."""

    def __init__(self, args):
        import serve_load
        import serve_photos
        import serve_process

        self.args, self.load, self.process = args, serve_load, serve_process
        self.photos = serve_photos.read(args.photos, args.limit)
        self.transform = serve_photos.Transform.of(args.model)
        self.pixels = None
        note(f"{len(self.photos)} photos, {sum(photo.label is not None for photo in self.photos)} with a label")

    # -- servers and requests

    def vitrim(self, policy=True, *options):
        """A server of ours, with the policy if there is one and `policy` says so."""
        port = self.process.free_port()
        command = [self.args.vitrim, "serve", "--model", f"{MODEL}={self.args.model}", "--port", port]
        command += ["--grpc-port", self.process.free_port(), "--threads", self.args.threads, "--dtype", self.args.dtype]
        if policy and self.args.policy:
            command += ["--policy", f"{MODEL}={self.args.policy}"]
        return self.process.Server([*command, *options, *self.args.serve.split()], port)

    def jpegs(self, port):
        """Requests with the photos as they are, one after the other."""
        head = ["Content-Type: image/jpeg"]
        made = [self.load.message(port, "/predict", photo.encoded, head) for photo in self.photos]
        return lambda i: (i % len(made), made[i % len(made)])

    def raw(self, port):
        """Requests with pixels, as a binary tensor."""
        if self.pixels is None:
            self.pixels = [self.transform(photo.encoded).tobytes() for photo in self.photos]
        size = self.transform.size
        tensor = {"name": "pixel_values", "shape": [1, 3, size, size], "datatype": "FP32"}
        tensor["parameters"] = {"binary_data_size": len(self.pixels[0])}
        answer = {"name": "logits", "parameters": {"binary_data": True}}
        about = json.dumps({"inputs": [tensor], "outputs": [answer]}).encode()
        head = ["Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {len(about)}"]
        path = f"/v2/models/{MODEL}/infer"
        made = [self.load.message(port, path, about + pixels, head) for pixels in self.pixels]
        return lambda i: (i % len(made), made[i % len(made)])

    # -- loads

    def saturate(self, server, requests, seconds=None):
        """A closed loop: images/s, and what else happened."""
        seconds = seconds or self.args.seconds
        load = self.load.Load(server.port)
        before = server.cpu_seconds()
        answers, share = self.load.run(load.closed_loop(requests, IN_FLIGHT, seconds))
        found = self.load.summary(answers, seconds * 0.1, seconds, share)
        found["server_cores"] = (server.cpu_seconds() - before) / seconds
        return found

    def offer(self, server, requests, rate, seconds=None, seed=0):
        """An open loop at `rate` requests/s."""
        seconds = seconds or self.args.seconds
        load = self.load.Load(server.port)
        arrivals = self.load.poisson(rate, seconds, seed)
        answers, share = self.load.run(load.open_loop(requests, arrivals))
        return self.load.summary(answers, seconds * 0.1, seconds, share), answers

    # -- cases

    def engine(self):
        return self.beside("raw pixels", self.raw, lambda: self.bench()["images_per_s"])

    def jpeg(self):
        def reference():
            found = self.bench()
            return 1.0 / (1.0 / found["images_per_s"] + 1.0 / found["decoded_per_s"])

        return self.beside("JPEG bodies", self.jpegs, reference)

    def beside(self, what, requests, reference):
        """Images/s through HTTP and those of the reference, in turns."""
        rounds = []
        for i in range(self.args.rounds):
            engine = reference()
            with self.vitrim() as server:
                found = self.saturate(server, requests(server.port))
            served = found["goodput_per_s"]
            rounds.append({"reference_per_s": engine, "share": served / engine, **found})
            client = found["client_share_of_a_core"]
            note(f"{what}, round {i + 1}: {served:.1f} of {engine:.1f} images/s; the client took {client:.1%} of a core")
        share = statistics.median(found["share"] for found in rounds)
        client = statistics.median(found["client_share_of_a_core"] for found in rounds) / self.args.threads
        # What the client takes of the cores, the server does not have.
        return {"share": share, "client_share_of_the_cores": client, "share_of_what_was_left": share / (1 - client), "rounds": rounds}

    def bench(self):
        """Images/s of `vitrim bench` with a stream for each core, and of decoding, both on the photos."""
        with tempfile.TemporaryDirectory() as folder:
            # All images of a list of this name are test images, which are what bench takes.
            listed = Path(folder) / "test.txt"
            listed.write_text("".join(f"{photo.path.resolve()}\n" for photo in self.photos))
            command = [self.args.vitrim, "bench", "--json", "--model", self.args.model, "--data", str(listed)]
            command += ["--dtype", self.args.dtype, "--threads", str(self.args.threads), "--streams", str(self.args.threads)]
            command += ["--rounds", "1"]
            if self.args.policy:
                command += ["--policy", self.args.policy]
            # The largest batch is how many photos bench reads; each cell takes them in turns, since a policy's cost differs
            # from photo to photo.
            most = str(min(len(self.photos), 256))
            seconds = str(self.args.seconds / 2)
            run = subprocess.run(
                [*command, "--batch", f"1,8,{most}", "--seconds", seconds],
                check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            kind = "pruned" if self.args.policy else "dense"
            rate = max(cell[kind]["images_per_s"] for cell in json.loads(run.stdout)["cells"])
        decoded = [line for line in run.stderr.splitlines() if line.startswith("images: ")]
        return {"images_per_s": rate, "decoded_per_s": float(decoded[-1].split(" decoded at ")[1].split()[0])}

    def latency(self):
        with self.vitrim() as server:
            requests = self.jpegs(server.port)
            capacity = self.saturate(server, requests)["goodput_per_s"]
            note(f"capacity {capacity:.1f} images/s")
            # One at a time, with pauses: nothing ever waits.
            alone = self.load.Load(server.port)
            count = min(200, max(20, int(self.args.seconds * capacity / 8)))
            pause = 4.0 / capacity
            answers, share = self.load.run(alone.open_loop(requests, [i * pause for i in range(count)]))
            unloaded = self.load.summary(answers, pause * count * 0.1, pause * count, share)
            busy, _ = self.offer(server, requests, 0.8 * capacity, seed=1)
            over, _ = self.offer(server, requests, 2.0 * capacity, seed=2)
            resident = server.resident()
        return {"capacity_per_s": capacity, "unloaded": unloaded, "at_80": busy, "at_200": over, "resident": resident}

    def surge(self):
        args = self.args
        with self.vitrim(False) as server:
            requests = self.jpegs(server.port)
            capacity = self.saturate(server, requests)["goodput_per_s"]
            dense = self.classes(server, requests)
        target = f"{args.target_p99:g}ms"
        with self.vitrim(True, "--max-drop", args.max_drop, "--target-p99", target) as server:
            requests = self.jpegs(server.port)
            calm, seconds = args.seconds / 2, args.seconds
            arrivals = self.load.poisson(0.5 * capacity, calm, 3)
            arrivals += self.load.poisson(1.5 * capacity, seconds, 4, calm)
            arrivals += self.load.poisson(0.5 * capacity, calm, 5, calm + seconds)
            load = self.load.Load(server.port)
            answers, share = self.load.run(load.open_loop(requests, arrivals))
        phases = {"before": (0, calm), "surge": (calm, calm + seconds), "after": (calm + seconds, 2 * calm + seconds)}
        found = {"dense_capacity_per_s": capacity}
        for name, (begin, end) in phases.items():
            phase = self.load.summary(answers, begin, end, share)
            good = [answer for answer in answers if begin <= answer.due < end and answer.status == 200]
            phase["loss"] = self.loss(good, dense)
            phase["points"] = points(good)
            found[name] = phase
        return found

    def classes(self, server, requests):
        """The best class of each photo."""
        load = self.load.Load(server.port)
        answers, _ = self.load.run(load.closed_loop(requests, 2, None, len(self.photos)))
        return {answer.key: best(answer) for answer in answers}

    def loss(self, answers, dense):
        """What the answers lost beside the dense ones: changed predictions, and top-1 where there are labels, pp."""
        import numpy as np

        changed = [best(answer) != dense[answer.key] for answer in answers]
        found = {"answers": len(answers), "disagreement_pp": 100 * float(np.mean(changed)) if changed else None}
        labelled = [answer for answer in answers if self.photos[answer.key].label is not None]
        if labelled:
            right = lambda best, answer: float(best == self.photos[answer.key].label)  # noqa: E731
            lost = [right(dense[answer.key], answer) - right(best(answer), answer) for answer in labelled]
            # Of photos, not of answers: the same photo is sent many times.
            each = {}
            for answer, one in zip(labelled, lost):
                each.setdefault(answer.key, []).append(one)
            means = [float(np.mean(values)) for values in each.values()]
            found["drop_pp"] = 100 * float(np.mean(lost))
            found["drop_standard_error_pp"] = 100 * float(np.std(means)) / len(means) ** 0.5
            found["photos"] = len(means)
        return found

    def rivals(self):
        import serve_rivals

        found = {}
        found["vitrim, dense"] = self.at_equal_p99([("", lambda: self.vitrim(False))])
        if self.args.policy:
            found["vitrim, pruned"] = self.at_equal_p99([("", lambda: self.vitrim(True))])
        with tempfile.TemporaryDirectory() as folder:
            networks = self.export(Path(folder))
            for name in self.args.rivals or serve_rivals.RIVALS:
                if self.args.dtype not in serve_rivals.DTYPES[serve_rivals.RIVALS[name][1]]:
                    note(f"{name} is left out: its engine has no {self.args.dtype}")
                    continue
                settings = [
                    (f"{workers} x {threads} threads, batch {batch}", lambda setting=(workers, threads, batch): self.rival(name, setting, networks))
                    for workers, threads, batch in serve_rivals.settings(self.args.threads)
                ]  # fmt: skip
                found[name] = self.at_equal_p99(settings)
        return found

    def export(self, folder):
        """The checkpoint as ONNX files: for one image, and for any number."""
        import compare_peers

        name = json.loads((Path(self.args.model) / "config.json").read_text())["architecture"]
        weights = Path(self.args.model) / "model.safetensors"
        paths = [compare_peers.export(name, batch, folder, weights)[0] for batch in (1, None)]
        if self.args.dtype == "int8":
            paths = [compare_peers.quantise(path) for path in paths]
        return dict(zip(("one", "any"), paths))

    def rival(self, name, setting, networks):
        import serve_rivals

        script, engine, ready = serve_rivals.RIVALS[name]
        workers, threads, batch = setting
        port = self.process.free_port()
        command = [sys.executable, HERE / script, "--engine", engine, "--port", port, "--dtype", self.args.dtype]
        command += ["--network", networks["one" if batch == 1 else "any"], "--transform", self.args.model]
        command += ["--workers", workers, "--threads", threads, "--batch", batch]
        return self.process.Server(command, port, ready, patience=120.0)

    def at_equal_p99(self, settings):
        """The largest rate at which p99 is within the limit, with the setting that is fastest when saturated."""
        rates = {}
        for name, start in settings:
            with start() as server:
                self.answers_come(server)
                rates[name] = self.saturate(server, self.jpegs(server.port), self.args.seconds / 2)["goodput_per_s"]
            note(f"{server.command[1]} {name}: {rates[name]:.1f} images/s")
        name, start = max(settings, key=lambda setting: rates[setting[0]])
        found = {"setting": name, "saturated_per_s": rates[name], "all_saturated_per_s": rates, "trials": []}
        with start() as server:
            self.answers_come(server)
            requests = self.jpegs(server.port)
            found["top1"] = self.top1(server, requests)
            low, high, found["per_s"] = 0.0, 1.1 * rates[name], 0.0
            for trial in range(6):
                rate = (low + high) / 2 if trial else 0.8 * rates[name]
                seen, _ = self.offer(server, requests, rate, seed=trial)
                latency = seen["latency_ms"]
                held = set(seen["statuses"]) == {"200"} and latency["p99"] <= self.args.p99
                low, high = (rate, high) if held else (low, rate)
                found["trials"].append({"rate": rate, "held": held, **seen})
                if held:
                    found["per_s"] = max(found["per_s"], seen["goodput_per_s"])
            found["resident"] = server.resident()
        note(f"{server.command[1]} {name}: {found['per_s']:.1f} requests/s with p99 within {self.args.p99:g} ms")
        return found

    def answers_come(self, server):
        """Waits until the model itself answers: a rival may be ready before its workers are."""
        photo = self.photos[0].encoded
        for _ in range(300):
            if server.request("POST", "/predict", photo, {"content-type": "image/jpeg"})[0] == 200:
                return
            time.sleep(0.2)
        raise SystemExit(f"error: {server.command} does not answer:\n{server.output()}")

    def top1(self, server, requests):
        """Top-1 of the photos that have a label: it shows that each server runs the same model."""
        classes = self.classes(server, requests)
        labelled = [(classes[i], photo.label) for i, photo in enumerate(self.photos) if photo.label is not None]
        return sum(one == label for one, label in labelled) / len(labelled) if labelled else None


def best(answer):
    """The best class in an answer, ours or a rival's."""
    found = answer.json()
    return found["images"][0]["classes"][0]["class"] if "images" in found else found["classes"][0]


def points(answers):
    """Which operating points served, each with its certificate and its answers, the cheapest last."""
    found = {}
    for answer in answers:
        point = answer.json()["images"][0]["operating_point"]
        found.setdefault(point["index"], {**point, "answers": 0})["answers"] += 1
    return [found[index] for index in sorted(found)]


def table(results):
    """The figures beside their targets, in Markdown."""
    rows = []
    if "engine" in results:
        found = results["engine"]
        rows.append(["images/s by HTTP, raw pixels : `bench --streams`", ">= 0.95", ratio(found)])
    if "jpeg" in results:
        rows.append(["images/s by HTTP, JPEG : decoding and computing", ">= 0.95", ratio(results["jpeg"])])
    if "latency" in results:
        found = results["latency"]
        alone, busy, over = found["unloaded"]["latency_ms"]["p50"], found["at_80"]["latency_ms"], found["at_200"]
        rows.append(["unloaded latency, p50", "", f"{alone:.1f} ms"])
        rows.append(["p99 at 80 % : unloaded", "<= 3", f"{busy['p99'] / alone:.2f} ({busy['p99']:.1f} ms)"])
        goodput = over["goodput_per_s"] / found["capacity_per_s"]
        rows.append(["goodput at 200 % : capacity", ">= 0.95", f"{goodput:.3f}"])
        refused = over["refusal_ms"]
        times = f"{refused['p99']:.1f} ms, {refused['max']:.1f} ms" if refused else "none was refused: measure longer"
        rows.append(["refusals at 200 %, p99 and largest", "<= 10 ms", times])
        rows.append(["statuses at 200 %", "200 and 429", json.dumps(over["statuses"])])
    if "surge" in results:
        found = results["surge"]["surge"]
        settings, loss = results["settings"], found["loss"]
        rows.append(["surge to 150 %: statuses", "200 alone", json.dumps(found["statuses"])])
        rows.append(["surge: p99", f"<= {settings['target_p99']} ms", f"{found['latency_ms']['p99']:.1f} ms"])
        lost = f"{loss['drop_pp']:.2f} +- {loss['drop_standard_error_pp']:.2f}" if "drop_pp" in loss else "-"
        rows.append(["surge: top-1 lost on the answers", f"<= {settings['max_drop']} pp", f"{lost} pp"])
        rows.append(["surge: predictions changed", "", f"{loss['disagreement_pp']:.2f} pp"])
        certified = max(point["certified"]["at_most"] for point in found["points"])
        rows.append(["surge: largest certified drop that served", f"<= {settings['max_drop']} pp", f"{certified:.2f} pp"])
    for name, found in results.get("rivals", {}).items():
        limit = results["settings"]["p99"]
        value = f"{found['per_s']:.1f} ({found['setting'] or 'defaults'}; saturated {found['saturated_per_s']:.1f})"
        rows.append([f"{name}: requests/s with p99 within {limit} ms", "", value])
    lines = ["| figure | target | measured |", "| --- | --: | --: |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ratio(found):
    return f"{found['share']:.3f} ({found['share_of_what_was_left']:.3f} of what the client left)"


if __name__ == "__main__":
    main()
