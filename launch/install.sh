# Makes .venv beside the project and installs it; sourced by other scripts.
# Usage: source launch/install.sh EXTRA[,EXTRA...]
# PYTHON names the interpreter (3.11 or newer), PIP_ARGS adds options of pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.12 python3.13 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "Python 3.11 or newer is needed; name one in PYTHON." >&2
  exit 2
}

stamp="$1 $(cat setup.cfg pyproject.toml | cksum)"
if [ "$(cat ".venv/installed-$1" 2>/dev/null || true)" != "$stamp" ]; then
  echo "Installing into .venv ..."
  [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
  # shellcheck disable=SC2086
  .venv/bin/pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
    -e ".[$1]"
  echo "$stamp" >".venv/installed-$1"
fi
export PATH="$PWD/.venv/bin:$PATH"
