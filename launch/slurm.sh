#!/usr/bin/env bash
# Starts pyramid-train on nodes of GPUs: one process a GPU, found by SLURM.
#   sbatch --nodes=16 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#     --config=configs/mmdit_2b_image.py --config.mesh.data=-1 \
#     --config.mesh.fsdp=8 --workdir=/shared/runs/mmdit/image \
#     --data=/shared/latents/images
# COMMAND=pyramid-encode sbatch ... starts that instead.
# Run it in the folder of the project, with its environment active. Before the
# time is over, or when the job is preempted, SIGTERM saves the run; the same
# command, or requeueing, continues it.
#SBATCH --job-name=pyramid-train
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --exclusive
set -euo pipefail
# By default JAX takes 75% of a GPU's memory; pyramid-plan counts on this much.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
# srun does not read --cpus-per-task of the job by itself.
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 --label \
  "${COMMAND:-pyramid-train}" --distributed "$@"
