#!/bin/sh
# A Slurm array in which 16 jobs embed one data set. Nothing in this repository runs it.
#   sbatch contrib/embed-slurm.sh         and again, if some were killed: what is written is skipped
#SBATCH --job-name=vitrim-embed
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --requeue
exec vitrim embed --model my/deit --policy runs/my/policy --data my/images --out embedded \
    --shard "$SLURM_ARRAY_TASK_ID/16" --threads "$SLURM_CPUS_PER_TASK"
