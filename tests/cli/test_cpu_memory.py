"""launch/cpu.sh keeps what is freed; needs glibc 2.35."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "cpu.sh"
LIBC, VERSION = platform.libc_ver()
# 32 times 64 MiB, taken, written to and freed; then the pages that it took
TAKE_AND_FREE = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(32):
  place = ctypes.c_void_p(libc.malloc(2**26))
  ctypes.memset(place, 1, 2**26)
  libc.free(place)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def pages(before: str, tunables: str = "") -> int:
  """Those that the program takes, after a line of shell."""
  environment = {**os.environ, "GLIBC_TUNABLES": tunables, "PY": sys.executable}
  done = subprocess.run(
    ["bash", "-ec", f'set -u; {before}; exec "$PY" -c "$PROGRAM"'],
    env={**environment, "PROGRAM": TAKE_AND_FREE},
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  return int(done.stdout)


@pytest.mark.skipif(
  LIBC != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35),
  reason="GLIBC_TUNABLES of glibc 2.35",
)
def test_what_is_freed_is_not_taken_anew():
  once = 2**26 // os.sysconf("SC_PAGESIZE")
  assert pages(":") > 30 * once
  assert pages(f"source {SCRIPT}") < 2 * once


def test_tunables_of_the_user_stay():
  show = f'source {SCRIPT}; echo "$GLIBC_TUNABLES"'
  own = "glibc.malloc.arena_max=2"
  made = subprocess.run(
    ["bash", "-euc", show], env={**os.environ, "GLIBC_TUNABLES": own},
    capture_output=True, text=True, check=True,
  ).stdout  # fmt: skip
  assert made.startswith(f"{own}:glibc.malloc.")
