#!/usr/bin/env bash
# Starts pyramid-train on nodes of GPUs: one process a GPU, found by SLURM.
#   sbatch --nodes=16 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#     --config=configs/mmdit_2b_image.py --config.mesh.data=-1 \
#     --config.mesh.fsdp=8 --workdir=/shared/runs/mmdit/image \
#     --data=/shared/latents/images --logs=/shared/runs/mmdit/image/logs
# A later stage of the curriculum is also told where the one before lies, as by
#   --config.train.init=/shared/runs/mmdit/image
# COMMAND=pyramid-encode sbatch ... starts that instead.
# Run it in the folder of the project, with its environment active. Before the
# time is over SIGTERM saves the run, and the job is queued anew and continues;
# so it is when a process or a node has died, RESTARTS (100) times at most. The
# end of the training ends it, and so does exit code 2, which is what a person
# has to mend, such as a wrong flag, a full disk or ten starts in a row that
# brought no checkpoint (--max_starts).
#SBATCH --job-name=pyramid-train
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --mem=0
set -euo pipefail
# By default JAX takes 75% of a GPU's memory; pyramid-plan counts on this much.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
start=("${COMMAND:-pyramid-train}" --distributed)
if [ "${start[0]}" = pyramid-train ]; then
  start+=(--stopped_code=143 --max_starts=10) # 143: as other commands
fi
# What each process ended with stands in srun's messages alone: its own code is
# the highest, which hides the mistake of one where the others were killed.
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
exec 3>&1
code=0
# srun does not read --cpus-per-task of the job by itself.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 --label \
  "${start[@]}" "$@" 2>&1 >&3 | tee "$messages" >&2 || code=$?
if [ "$code" -eq 0 ]; then
  exit 0
fi
if grep -q '^srun: error: .*: Exited with exit code 2$' "$messages"; then
  exit 2
fi
restarts=${SLURM_RESTART_COUNT:-0}
if [ "$restarts" -ge "${RESTARTS:-100}" ]; then
  echo "launch/slurm.sh: exit code $code, no restart after $restarts." >&2
  exit "$code"
fi
echo "launch/slurm.sh: exit code $code, restart $((restarts + 1))." >&2
scontrol requeue "$SLURM_JOB_ID"
