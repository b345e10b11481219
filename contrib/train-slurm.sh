#!/bin/sh
# Trains a policy on four machines under Slurm, one rank each; needs a build with MPI (docs/scaling.md). A job that is
# preempted, or has used up its time, goes back into the queue, and then on from its run folder. `scripts/test_slurm.sh`
# runs it.
#   sbatch contrib/train-slurm.sh MODEL DATA OUT [OPTION...]
#SBATCH --job-name=vitrim-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
model=$1 data=$2 out=$3
shift 3
srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    vitrim train --quiet --model "$model" --data "$data" --out "$out" --threads "$SLURM_CPUS_PER_TASK" "$@"
status=$?
# Asked to stop: the last update is saved.
if [ "$status" = 130 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
