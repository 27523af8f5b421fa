#!/bin/bash
# One Slurm job that computes a table's cells one after another, each with all GPUs of its node. Several such jobs over
# one outputs folder share the cells out among themselves:
#
#   sbatch --partition=gpu --array=1-3 scripts/slurm_gpus.sh experiment=table2 model=llama2_7b data=hub
#
# Submit it again after a time limit or a failed node: finished stages are kept, trainings go on from checkpoints.
#SBATCH --job-name=asft
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem-per-cpu=8G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

gpus="${SLURM_GPUS_ON_NODE:-1}"
export OMP_NUM_THREADS="$((${SLURM_CPUS_PER_TASK:-$gpus} / gpus))"
export ASFT_OUTPUTS="${ASFT_OUTPUTS:-$PWD/outputs}" # on a file system that all nodes share

exec srun torchrun --standalone --nproc-per-node "$gpus" -m asft run -m "$@"
