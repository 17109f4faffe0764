#!/usr/bin/env bash
# Starts pyramid-train on every host of a TPU pod, or of several slices.
#   TPU=my-pod ZONE=us-east5-a bash launch/tpu_pod.sh \
#     --config=configs/mmdit_2b_384p.py --workdir=/mnt/shared/runs/384p \
#     --data=/mnt/shared/latents
# COMMAND=pyramid-encode TPU=... starts that instead.
# FOLDER is where the project lies on the hosts (pyramid_jax); it is installed
# there with `pip install -e '.[data,text,train,tpu]'`. The workdir is on a disk
# that all hosts share. --worker=all starts them; the hosts find each other.
set -euo pipefail
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"
arguments=$(printf ' %q' "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd ${FOLDER:-pyramid_jax} && exec ${COMMAND:-pyramid-train} --distributed$arguments"
