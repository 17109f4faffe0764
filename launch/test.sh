#!/usr/bin/env bash
# Installs what the tests need and runs them.
#   bash launch/test.sh           the suite
#   bash launch/test.sh --full    and what takes longer or needs torch
# Other arguments go to pytest.
source "$(dirname "$0")/install.sh" data,text,train,test,notebooks
full=
for argument in "$@"; do
  [ "$argument" = --full ] && full=yes
done
if [ -n "$full" ] && ! python -c 'import torch' 2>/dev/null; then
  # The CPU build where an index has it alone; torch is used by tests only.
  pip install --quiet --disable-pip-version-check torch==2.13.0
fi
if [ -n "$full" ]; then
  # The TPU compiler of the installed JAX, where no test finds it unasked.
  compiler=.venv/tpu_compiler
  wanted="$(python -c 'from importlib.metadata import requires
print(*[r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")])')"
  if [ "$(cat $compiler/wanted 2>/dev/null || true)" != "$wanted" ]; then
    rm -rf $compiler
    # shellcheck disable=SC2086
    pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} --no-deps \
      --target $compiler "$wanted"
    echo "$wanted" >$compiler/wanted
  fi
fi
# Two workers: most of the time goes into compiling, on one thread each.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
