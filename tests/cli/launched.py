"""What a user starts by `launch/local.sh`, and small clips for it."""

import os
import pathlib
import subprocess
import sys

from pyramid_jax.data import shapes_store
from tests.compiling import QUICKLY

ROOT = pathlib.Path(__file__).parents[2]


class Launched:
  """`launch/local.sh` with so many processes of `command`."""

  def __init__(self, count, command, devices, *flags, **environment):
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    self.launcher = subprocess.Popen(
      ["bash", f"{ROOT}/launch/local.sh", str(count), *flags],
      env={
        **os.environ, "PATH": path, "COMMAND": command,
        "DEVICES": str(devices), "XLA_FLAGS": QUICKLY, **environment,
      },
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

  def pid(self, process):
    """Of one of the processes."""
    children = f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children"
    for child in pathlib.Path(children).read_text().split():
      words = pathlib.Path(f"/proc/{child}/cmdline").read_text().split("\0")
      if f"--process={process}" in words:
        return int(child)
    raise AssertionError(f"process {process} is not there")

  def end(self, timeout=300):
    """(exit code, what was printed)."""
    try:
      out, _ = self.launcher.communicate(timeout=timeout)
    finally:
      self.launcher.kill()
    return self.launcher.returncode, out

  def succeed(self):
    """What was printed until the end, which was a good one."""
    code, out = self.end()
    assert code == 0, out
    return out


def shapes_clips(folder, clips, heldout=1):
  """A dataset of clips of 9 frames, 32 x 32, of which some are held out."""
  settings = shapes_store.ShapesConfig(
    clips=clips, heldout=heldout, frames=9, height=32, width=32
  )
  return shapes_store.write(folder / "shapes", settings)
