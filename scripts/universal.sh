#!/bin/sh
# Trains the bundled policy for every backbone, or one that leaves a backbone out, and measures it on the one left out.
#
#   scripts/universal.sh OUT UPDATES LEFT_OUT MODEL=DATA ...
#
# OUT: folder for runs. UPDATES: updates in all; the backbones take turns. LEFT_OUT: MODEL=DATA of the backbone to measure on, or `none`.
# $VITRIM is the program, `vitrim` by default. The figures of docs/learning.md come from the data set's parts `calibration` and `test`.
set -eu
vitrim=${VITRIM:-vitrim}
out=$1 updates=$2 left_out=$3
shift 3
with=
for pair in "$@"; do with="$with --with $pair"; done
# shellcheck disable=SC2086 # one word a pair
"$vitrim" train $with --out "$out/policy-run" --updates "$updates" --max-drop 1 --seed "${SEED:-0}" \
    --set images_per_update=32 --set reward.reference_images=128
[ "$left_out" = none ] && exit 0
model=${left_out%%=*} data=${left_out#*=}
"$vitrim" calibrate --model "$model" --data "$data" --policy "$out/policy-run/policy" --out "$out/left-out" \
    --max-drop 100 --confidence 0.5
"$vitrim" compare --model "$model" --data "$data" --policy "$out/left-out/policy" --methods policy,tome,pitome,dtome \
    --near 1 --costs 0.8,0.7,0.6 --drops 1 --no-speed --no-studies --report "$out/compared"
