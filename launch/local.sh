#!/usr/bin/env bash
# Starts N processes of pyramid-train on this machine (CPU), to try out what
# several hosts do.
#   DEVICES=1 bash launch/local.sh 2 --config=configs/tiny.py \
#     --workdir=runs/two      (after launch/quickstart.sh, which makes its data)
#   COMMAND=pyramid-encode bash launch/local.sh 2 --config=... --videos=...
# COMMAND is another command; DEVICES the number of devices of each (4), whose sum
# divides config.latents.rows; PORT that of process 0 (a free one). Ends when all
# have ended, with the first exit code that is not 0; a SIGTERM goes to all.
set -uo pipefail
count="${1:-}"
if ! [[ "$count" =~ ^[1-9][0-9]*$ ]]; then
  echo "launch/local.sh: ${count:-nothing} is no number of processes; give it" \
    "first, then the flags of pyramid-train." >&2
  exit 2
fi
shift
if [ -z "${PORT:-}" ]; then
  PORT=$(python3 -c 'import socket
s = socket.socket()
s.bind(("localhost", 0))
print(s.getsockname()[1])')
fi
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} \
--xla_force_host_platform_device_count=${DEVICES:-4}"

children=()
for ((process = 0; process < count; process++)); do
  "${COMMAND:-pyramid-train}" --coordinator="localhost:$PORT" \
    --processes="$count" --process="$process" "$@" &
  children+=($!)
done
trap 'kill -TERM "${children[@]}" 2>/dev/null' TERM INT

code=0
for child in "${children[@]}"; do
  wait "$child"
  ended=$?
  while kill -0 "$child" 2>/dev/null; do # a signal only ended the waiting
    wait "$child"
    ended=$?
  done
  [ "$code" -ne 0 ] || code=$ended
done
exit "$code"
