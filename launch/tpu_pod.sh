#!/usr/bin/env bash
# Starts pyramid-train on every host of a TPU pod, one slice; for several slices
# there is gke.yaml.
#   TPU=my-pod ZONE=us-east5-a bash launch/tpu_pod.sh \
#     --config=configs/mmdit_2b_image.py --workdir=/mnt/shared/runs/mmdit/image \
#     --data=/mnt/shared/latents/images
# COMMAND=pyramid-encode TPU=... starts that instead.
# FOLDER is where the project lies on the hosts (pyramid_jax, in the home). It is
# installed there, into .venv, once:
#   gcloud compute tpus tpu-vm ssh my-pod --zone=us-east5-a --worker=all \
#     --command='source pyramid_jax/launch/install.sh data,text,train,tpu'
# with Python 3.11 or newer. The workdir is on a disk that all hosts share.
# --worker=all starts them; the hosts find each other.
set -euo pipefail
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"
arguments=$(printf ' %q' "$@")
# the shell on a host reads no profile, which might have named these
path='PATH="$PWD/.venv/bin:$HOME/.local/bin:$PATH"'
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd ${FOLDER:-pyramid_jax} && export $path && exec ${COMMAND:-pyramid-train} --distributed$arguments"
