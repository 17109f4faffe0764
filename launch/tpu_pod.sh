#!/usr/bin/env bash
# Starts pyramid-train on every host of a TPU pod, one slice; for several slices
# there is gke.yaml.
#   TPU=my-pod ZONE=us-east5-a bash launch/tpu_pod.sh \
#     --config=configs/mmdit_2b_image.py --workdir=/mnt/shared/runs/mmdit/image \
#     --data=/mnt/shared/latents/images --logs=/mnt/shared/runs/mmdit/image/logs
# A later stage of the curriculum is also told where the one before lies, as by
#   --config.train.init=/mnt/shared/runs/mmdit/image
# COMMAND=pyramid-encode TPU=... starts that instead.
# FOLDER is where the project lies on the hosts (pyramid_jax, in the home). It is
# installed there, into .venv, once:
#   gcloud compute tpus tpu-vm ssh my-pod --zone=us-east5-a --worker=all \
#     --command='source pyramid_jax/launch/install.sh data,text,train,tpu'
# with Python 3.11 or newer. For several hosts gcloud asks that this machine has
# done `ssh-add ~/.ssh/google_compute_engine` before. The workdir is on a disk
# that all hosts share. --worker=all starts them; the hosts find each other.
# When a process or a host has died (a host that is silent for a minute has), or
# SIGTERM has stopped the run, all are started anew after PAUSE (60) seconds and
# continue, RESTARTS (100) times at most; this machine has to stay on. The end
# of the training ends it, and so does exit code 2, which is what a person has
# to mend, such as a wrong flag, a full disk or ten starts in a row that brought
# no checkpoint (--max_starts).
set -euo pipefail
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"
start="${COMMAND:-pyramid-train} --distributed"
if [ "${COMMAND:-pyramid-train}" = pyramid-train ]; then
  start+=" --stopped_code=143 --max_starts=10" # 143: as other commands
fi
start+=$(printf ' %q' "$@")
# the shell on a host reads no profile, which might have named these
path='PATH="$PWD/.venv/bin:$HOME/.local/bin:$PATH"'
# gcloud ends with the code of one host, which hides another's: each says it
says='code=$?; echo "launch/tpu_pod.sh: exit code $code on $(hostname)"'
remote="(cd ${FOLDER:-pyramid_jax} || exit 2; export $path; exec $start); $says"
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
trap 'exit 130' INT # also where gcloud ends in order
for ((restarts = 0; ; restarts++)); do
  code=0
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="$remote; exit \$code" \
    -- -o ServerAliveInterval=15 -o ServerAliveCountMax=4 |
    tee "$messages" || code=$?
  if [ "$code" -eq 0 ]; then
    exit 0
  fi
  # 127: it is not installed
  if grep -q '^launch/tpu_pod.sh: exit code \(2\|127\) ' "$messages"; then
    exit 2
  fi
  if [ "$restarts" -eq 0 ] && [ ! -s "$messages" ]; then
    exit "$code" # gcloud has not reached a host, and said why
  fi
  if [ "$restarts" -ge "${RESTARTS:-100}" ]; then
    echo "launch/tpu_pod.sh: exit code $code, no restart after $restarts." >&2
    exit "$code"
  fi
  echo "launch/tpu_pod.sh: exit code $code, restart $((restarts + 1))." >&2
  sleep "${PAUSE:-60}"
done
