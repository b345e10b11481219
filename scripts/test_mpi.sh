#!/usr/bin/env bash
# Trains, tunes, calibrates and evaluates by several ranks under mpirun, and checks that each file is that of one process, byte for
# byte; and that an error, a killed rank and Ctrl-C end with one line, after which the run goes on.
# Needs Open MPI and libclang (Debian: libopenmpi-dev, openmpi-bin, libclang-dev).
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace --bin vitrim --features vitrim/mpi
vitrim="$PWD/target/release/vitrim"
model="$PWD/crates/vitrim/assets/backbone"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# MPI waits for so many seconds before it asks ranks to stop, and again before it kills them.
export OMPI_MCA_odls_base_sigkill_timeout=4 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

mpi=(mpirun --oversubscribe --bind-to none)
ranks() {
    local count=$1
    shift
    timeout 300 "${mpi[@]}" -n "$count" "$@"
}

fail() {
    echo "error: $*" >&2
    exit 1
}

same() {
    cmp "$1" "$2" || fail "$1 differs from $2"
}

# Waits until the run that never ends has logged more than so many updates.
logged() {
    until [ "$(cat endless/log.jsonl 2>/dev/null | wc -l)" -gt "$2" ]; do
        kill -0 "$1" 2>/dev/null || fail "it ended"
        sleep 0.1
    done
}

# The only line of vitrim's in a log, which has MPI's own messages, too.
the_line() {
    [ "$(grep -cE "^(error|interrupted): " "$1")" = 1 ] || fail "not one line: $(cat "$1")"
    grep -qE "$2" "$1" || fail "no '$2' in: $(cat "$1")"
}

run=("$vitrim" train --model "$model" --data scenes --threads 1 --set rollouts_per_image=2 --set reward.reference_images=16
    --set checkpoint_every=1)
train=("${run[@]}" --updates 3 --set images_per_update=10 --calibration-images 192)
endless=("${run[@]}" --updates 4000 --set images_per_update=16 --no-calibrate --out endless)
files=(policy/policy.safetensors policy/policy.json policy/seen.safetensors checkpoint.safetensors config.toml)

"${train[@]}" --out one > one.txt 2> one.log
for count in 2 3; do
    ranks "$count" "${train[@]}" --out "ranks$count" > "ranks$count.txt" 2> "ranks$count.log" || fail "$(cat "ranks$count.log")"
    for file in "${files[@]}"; do same "one/$file" "ranks$count/$file"; done
    # Only rank 0 prints.
    same <(sed "s/ranks$count/one/g" "ranks$count.txt") one.txt
done
echo "trained and calibrated by 1, 2 and 3 ranks: the same files"

for command in "eval --policy one/policy --images 300 --no-speed --batch 16" "eval --keep 0.7 --methods tome,evit --images 100 --no-speed"; do
    read -ra words <<< "$command"
    "$vitrim" "${words[@]}" --model "$model" --data scenes --json > one.json 2> eval.log
    ranks 3 "$vitrim" "${words[@]}" --model "$model" --data scenes --json > ranks.json 2> eval.log || fail "$(cat eval.log)"
    same one.json ranks.json
done
compare=("$vitrim" compare --model "$model" --data scenes --policy one/policy --methods policy,tome,dtome --images 150 --sweep-images 100
    --costs 0.8 --drops 1 --no-speed --json)
"${compare[@]}" --report compared > one.json 2> log
ranks 3 "${compare[@]}" --report compared3 > ranks.json 2> log || fail "$(cat log)"
same one.json ranks.json
same compared/comparison.json compared3/comparison.json
cp -r one/policy calibrated
"$vitrim" calibrate --model "$model" --data scenes --policy one/policy --calibration-images 200 --max-drop 2 > one.txt 2> log
ranks 2 "$vitrim" calibrate --model "$model" --data scenes --policy calibrated --calibration-images 200 --max-drop 2 > ranks.txt 2> log
same one/policy/policy.json calibrated/policy.json
echo "evaluated, compared and calibrated by ranks: the same figures"

# Learning by gradients: parts of a batch are summed in one order, whoever has computed them.
small=(--model "$model" --data scenes --threads 1)
tune=("$vitrim" finetune "${small[@]}" --policy one/policy --keep 0.7 --images 40 --set batch=20 --set held_out_images=32 --set log_every=1)
gates=("$vitrim" train "${small[@]}" --preset gumbel --updates 2 --set images_per_update=10 --set reward.reference_images=16 --no-calibrate)
metric=("$vitrim" train-metric "${small[@]}" --images 40 --set batch=20 --set log_every=1)
pretrain=("$vitrim" pretrain --data scenes --preset scenes --threads 1 --images 40 --set batch=20 --set held_out_images=32 --set log_every=1)
same_files() {
    local first=$1 second=$2
    shift 2
    for file in "$@"; do same "$first/$file" "$second/$file"; done
}
"${tune[@]}" --out tuned > log.txt 2> log
"${gates[@]}" --out gates > log.txt 2> log
"${pretrain[@]}" --out backbone > log.txt 2> log
"${metric[@]}" --out metric > log.txt 2> log
ranks 2 "${metric[@]}" --out metric2 > log.txt 2> log || fail "$(cat log)"
ranks 3 "${tune[@]}" --out tuned3 > log.txt 2> log || fail "$(cat log)"
ranks 2 "${gates[@]}" --out gates2 > log.txt 2> log || fail "$(cat log)"
ranks 2 "${pretrain[@]}" --out backbone2 > log.txt 2> log || fail "$(cat log)"
same_files tuned tuned3 model/model.safetensors policy/policy.json checkpoint.safetensors
same_files metric metric2 policy/policy.safetensors checkpoint.safetensors
same_files gates gates2 policy/policy.safetensors checkpoint.safetensors
same_files backbone backbone2 model/model.safetensors checkpoint.safetensors
echo "tuned, trained by gates and by a metric, and pretrained by ranks: the same files"

# A rank that is killed: the others end, and the run goes on with another number of ranks.
"${mpi[@]}" -n 2 "${endless[@]}" > log.txt 2> killed.log &
job=$!
logged "$job" 0
for process in $(pgrep -P "$job"); do
    if grep -qz '^OMPI_COMM_WORLD_RANK=1$' "/proc/$process/environ"; then kill -9 "$process"; fi
done
wait "$job" && fail "a killed rank is no success"
the_line killed.log "^error: rank 1 \(process [0-9]+\) has died.*run the same command again"

# Ctrl-C: what is done is saved.
before=$(wc -l < endless/log.jsonl)
"${mpi[@]}" -n 3 "${endless[@]}" > log.txt 2> stopped.log &
job=$!
logged "$job" $((before + 1))
kill -INT "$job"
wait "$job" && fail "an interruption is no success"
the_line stopped.log "^interrupted: update [0-9]+ of 4000 is saved in endless; run the same command again to go on"
echo "killed and interrupted: one line each, and the run goes on"

# Ranks that differ, and an error on one rank.
ranks 1 "${train[@]}" --out unlike : -n 1 "${train[@]}" --seed 5 --out unlike > log.txt 2> unlike.log && fail "ranks may not differ"
the_line unlike.log '^error: rank 1 has `seed = 5`'
ranks 1 "${train[@]}" --out unlike : -n 1 "${train[@]/$model/absent}" --out unlike > log.txt 2> absent.log && fail "a model is absent"
the_line absent.log "^error: rank 1: absent"
ranks 2 "$vitrim" info --model "$model" > log.txt 2> info.log && fail "info has nothing to share"
the_line info.log "^error: started as one of 2 processes, but only train, train-metric, pretrain, finetune, calibrate, eval and compare"
echo "ranks that differ or fail: one line each"
