"""Runs commands as a user does, without the seconds that imports take.

A server process imports the libraries once; every command is a fork of it with
its own arguments, environment, output and exit code.
"""

import dataclasses
import errno
import importlib
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import tempfile

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
  [
    "pyramid_jax.convert.tiny_text",
    "pyramid_jax.data.encode",
    "pyramid_jax.generate.pipeline",
    "pyramid_jax.train.dit_task",
    "pyramid_jax.train.vae_task",
    "tensorboardX",
  ]
)


@dataclasses.dataclass(frozen=True)
class Result:
  """How a command ended and what it said."""

  code: int
  out: str
  err: str

  @property
  def error(self) -> str:
    """What a mistake looks like: exit code 2 and one line, nothing else.

    A run that goes on says so before.
    """
    assert self.code == 2, f"exit code {self.code}\n{self.out}\n{self.err}"
    *before, line = self.err.splitlines()
    assert [x[:20] for x in before] in ([], ["continuing from step"]), self.err
    name, kind, text = line.split(": ", 2)
    assert name.startswith("pyramid-") and kind == "error", line
    return text


def run(command: str, *arguments, before=None, files=False) -> Result:
  """Runs pyramid-<command> with "--<argument>"s to its end.

  `before` is called first in the process of the command. With `files`, paths
  are no flags.
  """
  flags = [
    str(a) if files and isinstance(a, pathlib.Path) else f"--{a}"
    for a in arguments
  ]
  with tempfile.TemporaryDirectory() as folder:
    process = SERVER.Process(
      target=_command,
      args=(command, flags, folder, before),
    )
    process.start()
    try:
      process.join()
    finally:  # a test that ran out of time leaves nothing behind
      process.kill()
    out, err = (
      (pathlib.Path(folder) / name).read_text() for name in ("out", "err")
    )
  return Result(process.exitcode, out, err)


def refused(pattern: str, *arguments, **options):
  """Asserts that a command ends with one line that says `pattern`."""
  error = run(*arguments, **options).error
  assert re.search(pattern, error), f"{pattern!r} is not in {error!r}"


def fill_disk():
  """Stands for a disk that is full from now on."""
  from pyramid_jax import checkpoint
  from pyramid_jax.generate import export

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  checkpoint.ocp.CheckpointManager.save = full
  export.write_png = full


def _command(command, arguments, folder, before):
  for number, name in ((1, "out"), (2, "err")):
    file = os.open(pathlib.Path(folder) / name, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, number)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  sys.argv = [f"pyramid-{command}", *arguments]
  if before is not None:
    before()
  importlib.import_module(f"pyramid_jax.cli.{command}").run()
