#!/bin/bash
# One Slurm job whose tasks share a table's cells out among themselves: every task runs the same sweep over one
# outputs folder, takes the cells that no other task has, and waits for shared stages that another one computes.
#
#   sbatch --partition=gpu scripts/slurm.sh experiment=table2 model=llama2_7b data=hub
#
# Submit it again after a time limit or a failed node: finished stages are kept, trainings go on from checkpoints.
#SBATCH --job-name=asft
#SBATCH --nodes=1
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=8G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export ASFT_OUTPUTS="${ASFT_OUTPUTS:-$PWD/outputs}" # on a file system that all nodes share

failed=0
srun asft run -m "$@" || failed=$? # a cell that failed is in the report as well
asft report "$@"
exit "$failed"
