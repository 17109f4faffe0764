"""Loads reference files: numbers recorded from the authors' PyTorch code.

The committed ones lie in tests/goldens, without intermediates. With `--full`
the folder that $PYRAMID_GOLDENS names, or ../shared/goldens beside the
checkout, is used as well.
"""

import dataclasses
import json
import os
import pathlib

import numpy as np

COMMITTED = pathlib.Path(__file__).parent / "goldens"
SHARED = pathlib.Path(
  os.environ.get(
    "PYRAMID_GOLDENS",
    pathlib.Path(__file__).parents[2] / "shared" / "goldens",
  )
)
FULL = "PYRAMID_FULL"  # an environment variable, set by `--full`


@dataclasses.dataclass
class Reference:
  """One file: `config` as a dict, arrays by key."""

  name: str
  config: dict
  arrays: dict[str, np.ndarray]

  def __getitem__(self, key: str) -> np.ndarray:
    return self.arrays[key]

  def under(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose key starts with `prefix`, which is cut off."""
    return {
      key[len(prefix) :]: value
      for key, value in self.arrays.items()
      if key.startswith(prefix)
    }


def load(name: str) -> Reference:
  """Reads a committed file, or one of the shared folder."""
  path = COMMITTED / f"{name}.npz"
  return read(path if path.exists() else SHARED / path.name)


def read(path: pathlib.Path) -> Reference:
  """Reads a file."""
  with np.load(path) as file:
    arrays = {key: file[key] for key in file.files if key != "config"}
    config = json.loads(str(file["config"])) if "config" in file.files else {}
  return Reference(path.stem, config, arrays)


def names(*patterns: str) -> list[str]:
  """The files of a kind: committed ones, with `--full` also shared ones."""
  folders = [COMMITTED, SHARED] if FULL in os.environ else [COMMITTED]
  files = [f for folder in folders for p in patterns for f in folder.glob(p)]
  return sorted({f.stem for f in files if f.suffix == ".npz"})


def max_error(actual: np.ndarray, desired: np.ndarray) -> float:
  """Largest absolute error, relative to the largest desired value."""
  scale = np.abs(desired).max() or 1.0
  return float(np.abs(np.asarray(actual) - desired).max() / scale)
