#!/bin/sh
# Shares of a data set, four at a time, each on two threads: for machines that share a folder, or for one of several sockets. The
# tests of the command line run it (`crates/vitrim/tests/cli/embed.rs`). Run it again if some were killed: what is written is skipped.
#   contrib/embed-xargs.sh MODEL DATA OUT [OPTION...]
set -eu
model=$1 data=$2 out=$3
shift 3
seq 0 15 | xargs -P 4 -I {} vitrim embed --quiet --model "$model" --data "$data" --out "$out" --shard {}/16 --threads 2 "$@"
