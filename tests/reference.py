"""Loads reference files: numbers recorded from the authors' PyTorch code.

The committed ones lie in tests/goldens, without intermediates. With `--full`
the folder that $PYRAMID_GOLDENS names, or ../shared/goldens beside the
checkout, is used as well.
"""

import functools
import os
import pathlib

import numpy as np

from pyramid_jax.verify.file import Reference, kind, read

COMMITTED = pathlib.Path(__file__).parent / "goldens"
SHARED = pathlib.Path(
  os.environ.get(
    "PYRAMID_GOLDENS",
    pathlib.Path(__file__).parents[2] / "shared" / "goldens",
  )
)
FULL = "PYRAMID_FULL"  # an environment variable, set by `--full`


def load(name: str) -> Reference:
  """Reads a committed file, or one of the shared folder."""
  return read(path(name))


def path(name: str) -> pathlib.Path:
  """Where a file lies."""
  committed = COMMITTED / f"{name}.npz"
  return committed if committed.exists() else SHARED / committed.name


def names(*kinds: str) -> list[str]:
  """The files of some kinds: committed ones, with `--full` also shared ones."""
  return sorted(name for name, k in _kinds().items() if k in kinds)


@functools.cache
def _kinds() -> dict[str, str]:
  folders = [COMMITTED, SHARED] if FULL in os.environ else [COMMITTED]
  files = {f.stem: f for folder in folders for f in folder.glob("*.npz")}
  return {name: kind(read(file)) for name, file in files.items()}


def max_error(actual: np.ndarray, desired: np.ndarray) -> float:
  """Largest absolute error, relative to the largest desired value."""
  scale = np.abs(desired).max() or 1.0
  return float(np.abs(np.asarray(actual) - desired).max() / scale)
