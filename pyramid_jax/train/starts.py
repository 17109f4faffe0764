"""How often a run was started without coming further."""

import json
import logging
import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from pyramid_jax.config import UserError

FILE = "starts.json"

log = logging.getLogger(__name__)


class NoProgressError(UserError):
  """A run ends again and again before it saves; a person has to look."""


def count(workdir: pathlib.Path, checkpoint: int | None, most: int):
  """Counts a start from a checkpoint, in a file of the workdir.

  What starts a run anew whenever it ends would else pay for machines on which
  the same mistake ends it every time.

  Args:
    checkpoint: step of the newest one, None before the first.
    most: starts from the same one that are allowed; 0 is any number.

  Raises:
    NoProgressError: this one is too many; on all processes.
  """
  starts = 0
  if jax.process_index() == 0:
    starts = _counted(workdir / FILE, checkpoint)
  if jax.process_count() > 1:
    told = multihost_utils.broadcast_one_to_all(np.int32(starts))
    starts = int(told)
  if most and starts > most:
    since = "yet" if checkpoint is None else f"after step {checkpoint}"
    raise NoProgressError(
      f"the last {most} starts of {workdir} brought no checkpoint {since}. "
      "What their processes printed last says why they ended; then delete "
      f"{workdir / FILE}, or allow more with --max_starts."
    )


def _counted(path: pathlib.Path, checkpoint: int | None) -> int:
  """The starts from this checkpoint with the one of now."""
  before = {}
  try:
    before = json.loads(path.read_text())
  except FileNotFoundError:
    pass
  except ValueError:  # of a machine that died
    log.warning("%s cannot be read; starts are counted anew.", path)
  same = before.get("checkpoint", -1) == checkpoint
  starts = 1 + (before["starts"] if same else 0)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(json.dumps({"checkpoint": checkpoint, "starts": starts}))
  os.replace(beside, path)
  return starts
