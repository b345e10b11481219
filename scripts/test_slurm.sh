#!/usr/bin/env bash
# Runs the jobs of contrib/ under a Slurm of its own, with two nodes on this machine and everything in a temporary
# folder: an array of `vitrim embed` whose tasks are killed at random, and training by two ranks that is preempted and
# stopped. Checks that both write what one process writes, byte for byte. Takes some minutes; needs Slurm and MUNGE
# (Debian: slurm-wlm, munge), and what scripts/test_mpi.sh needs.
# VITRIM_BINARY names a `vitrim` with MPI that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

for program in munged slurmctld slurmd sbatch srun scontrol python3; do
    command -v "$program" > /dev/null || fail "there is no $program; install slurm-wlm, munge and python3"
done
if [ -z "${VITRIM_BINARY:-}" ]; then
    cargo build --release --workspace --bin vitrim --features vitrim/mpi
    VITRIM_BINARY="${CARGO_TARGET_DIR:-target}/release/vitrim"
fi
grep -q libmpi <<< "$(ldd "$VITRIM_BINARY")" || fail "$VITRIM_BINARY has no MPI; build it with --features vitrim/mpi"

contrib="$PWD/contrib"
scripts="$PWD/scripts"
model="$PWD/crates/vitrim/assets/backbone"
folder="$(mktemp -d)"
mkdir -p "$folder"/{state,log,bin,one,array,spool/node{1,2},tmp/node{1,2}}
ln -s "$(realpath "$VITRIM_BINARY")" "$folder/bin/vitrim"
cd "$folder"
export PATH="$folder/bin:$PATH" SLURM_CONF="$folder/slurm.conf"

# Ends what runs and what was started, in this order, so that no task is left behind.
daemons=()
tear_down() {
    scancel --user "$(id -un)" 2> /dev/null || true
    for _ in $(seq 30); do
        [ -n "$(squeue --noheader 2> /dev/null)" ] || break
        sleep 1
    done
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2> /dev/null || true
        wait "${daemons[i]}" 2> /dev/null || true
    done
    rm -rf "$folder"
}
trap tear_down EXIT

# Starts a daemon; its log is in log/NAME.
daemon() {
    local name=$1
    shift
    "$@" > "log/$name.out" 2>&1 &
    daemons+=($!)
}

free_ports='import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(socket.getsockname()[1] for socket in sockets))'
read -r controller_port port1 port2 < <(python3 -c "$free_ports")
user="$(id -un)" host="$(hostname -s)"
# Nodes claim what the machine may not have. PMIx needs a TmpFS of each node's own.
cat > slurm.conf << CONF
ClusterName=vitrim
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdSpoolDir=$folder/spool/%n
SlurmdPidFile=$folder/%n.pid
TmpFS=$folder/tmp/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port1 CPUs=2 RealMemory=64000
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port2 CPUs=2 RealMemory=64000
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=2
CONF
head -c 1024 /dev/urandom > munge.key
chmod 600 munge.key
daemon munged munged --foreground --force --key-file=munge.key --seed-file="$folder/munge.seed" \
    --socket="$folder/munge.socket" --pid-file="$folder/munged.pid"
daemon slurmctld slurmctld -D -i
for node in node1 node2; do daemon "$node" slurmd -D -N "$node"; done
for second in $(seq 30); do
    [ "$(sinfo --noheader --partition usual --format %T-%D 2> /dev/null)" != idle-2 ] || break
    [ "$second" -lt 30 ] || fail "Slurm does not start: $(tail -qn 2 log/*.out | tr '\n' ' ')"
    sleep 1
done

# Waits until the job is no longer pending or running; an array, until no task is.
until_over() {
    for _ in $(seq 600); do
        [ -n "$(squeue --noheader --jobs "$1" 2> /dev/null)" ] || return 0
        sleep 0.5
    done
    fail "job $1 does not end: $(squeue --noheader --jobs "$1") $(cat ./*.out)"
}

# Waits until the job has logged more than so many updates.
logged() {
    until [ "$(cat ranks/log.jsonl 2> /dev/null | wc -l)" -gt "$2" ]; do
        [ -n "$(squeue --noheader --jobs "$1" 2> /dev/null)" ] || fail "training ends too early: $(cat "slurm-$1.out")"
        sleep 0.2
    done
}

# An array of 16 tasks, four at a time. Random tasks that run are killed, cancelled, or requeued. Files have the command
# in their metadata: both have the same.
python3 "$scripts/make_tiny_shards.py" images --train 2400 --validation 100 --shard 400
(cd one && vitrim embed --quiet --model "$model" --data ../images --out embedded --part 25 --threads 1 > ../embed.txt)
embed() {
    sbatch "$@" --chdir array --cpus-per-task=1 --output "$folder/embed-%a.out" \
        "$contrib/embed-slurm.sh" "$model" ../images embedded --part 25
}
job="$(embed --parsable)"
killed=0 requeued=0
for kill in $(seq 12); do
    sleep "0.$((2 + RANDOM % 8))"
    mapfile -t running < <(squeue --noheader --array --states RUNNING --jobs "$job" --format %i)
    [ ${#running[@]} -gt 0 ] || continue
    task="${running[RANDOM % ${#running[@]}]}"
    case $((kill % 3)) in
        0) scancel --signal=KILL --batch "$task" && killed=$((killed + 1)) ;;
        1) scontrol requeue "$task" && requeued=$((requeued + 1)) ;;
        2) scancel "$task" && killed=$((killed + 1)) ;;
    esac || true # It may have ended by now.
    # A node that is lost in the middle: Slurm puts its tasks into the queue again.
    if [ "$kill" = 6 ]; then
        scontrol update NodeName=node2 State=DOWN Reason=test
        scontrol update NodeName=node2 State=RESUME
    fi
done
until_over "$job"
parts="$(find one -name '*.parquet' | wc -l)"
written="$(find array -name '*.parquet' | wc -l)"
[ "$written" -lt "$parts" ] || fail "all tasks had ended before they were killed: nothing was tested"
embed --wait > sbatch.txt || fail "the second array has failed: $(cat embed-*.out)"
different="$(diff -rq one array || true)"
[ -z "$different" ] || fail "the array has not written what one process has: $(head -1 <<< "$different")"
echo "embedded: $killed tasks killed, $requeued and a node's requeued: $written of $parts parts;" \
    "again: all of them, the same files as one process"

# Training by two ranks on two nodes: preempted by an urgent job, then asked to stop as at the end of its time.
train=(--set rollouts_per_image=2 --set reward.reference_images=16 --set checkpoint_every=1 --set images_per_update=16
    --updates 60 --calibration-images 192)
vitrim train --quiet --model "$model" --data scenes --out alone --threads 1 "${train[@]}" > alone.txt
job="$(sbatch --parsable --nodes=2 --cpus-per-task=1 --time=10 \
    "$contrib/train-slurm.sh" "$model" scenes ranks "${train[@]}")"
logged "$job" 2
sbatch --wait --partition urgent --nodes 2 --exclusive --wrap true > sbatch.txt
preempted="$(wc -l < ranks/log.jsonl)"
logged "$job" $((preempted + 2))
scancel --signal=TERM "$job"
until_over "$job"
said="$(cat "slurm-$job.out")"
scontrol show job "$job" > job.txt
grep -q "JobState=COMPLETED" job.txt || fail "training has not ended well: $said"
grep -q "Restarts=2" job.txt || fail "training was not requeued twice: $said"
[ "$(grep -c "^interrupted: update [0-9]* of 60 is saved in ranks" <<< "$said")" = 2 ] || fail "not two interruptions: $said"
for file in policy/policy.safetensors policy/policy.json policy/seen.safetensors checkpoint.safetensors config.toml; do
    cmp "alone/$file" "ranks/$file" || fail "two ranks, requeued twice, have written another $file than one process"
done
echo "trained by two ranks on two nodes, preempted after $preempted of 60 updates and stopped later:" \
    "the same files as one process"
