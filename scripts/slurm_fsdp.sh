#!/bin/bash
# One Slurm job that runs a training script under FSDP2 on all GPUs of its nodes:
#
#   sbatch --partition=gpu --nodes=2 scripts/slurm_fsdp.sh docs/examples/trainer.py BASE ALIGNED ROWS.jsonl OUT
#
# Submit it again after a time limit or a failed node: the script goes on from its last checkpoint. OUT and the models
# are on a file system that all nodes share.
#SBATCH --job-name=asft-fsdp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem-per-cpu=8G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

nodes="${SLURM_NNODES:-1}"
gpus="${SLURM_GPUS_ON_NODE:-1}"
read -r host < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS="$((${SLURM_CPUS_PER_TASK:-$gpus} / gpus))"

# shellcheck disable=SC2016  # each node has a SLURM_NODEID of its own
exec srun bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
  --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_state_dict_type FULL_STATE_DICT \
  --num_machines "$nodes" --num_processes "$((nodes * gpus))" --main_process_ip "$host" --main_process_port 29500 "$@"
