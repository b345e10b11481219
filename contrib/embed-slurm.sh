#!/bin/sh
# A Slurm array in which 16 jobs embed one data set. `scripts/test_slurm.sh` runs it.
#   sbatch contrib/embed-slurm.sh MODEL DATA OUT [OPTION...]     and again, if some were killed: what is written is skipped
#SBATCH --job-name=vitrim-embed
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
model=$1 data=$2 out=$3
shift 3
exec vitrim embed --quiet --model "$model" --data "$data" --out "$out" --shard "$SLURM_ARRAY_TASK_ID/16" \
    --threads "$SLURM_CPUS_PER_TASK" "$@"
