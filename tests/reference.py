"""Loads reference files: numbers recorded from the authors' PyTorch code.

The committed ones lie in tests/goldens, without intermediates. With `--full`
the folder that $PYRAMID_GOLDENS names, or ../shared/goldens beside the
checkout, is used as well.
"""

import dataclasses
import functools
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


def kind(file: Reference) -> str:
  """What a file compares, by the keys of its config as its README says."""
  config = file.config
  if {"kind", "runs"} <= config.keys():
    return config["kind"]  # calls of a transformer: mmdit, flux
  if {"kind", "prompts_seen"} <= config.keys():
    return f"sampler_{config['kind']}"
  if {"pipe", "case", "draw_order"} <= config.keys():
    return "noise_history" if config["case"]["temporal"] else "noise"
  if "sample_ratios" in config:
    return f"train_step_{config['case']['kind']}"
  if "weights" in config:
    tiled = any(key.endswith("untiled_diff") for key in file.arrays)
    return "vae_tiled" if tiled else "vae"
  if "loss" in config:
    return "vae_loss"
  if "clip_l" in config:
    return "text"
  return "scheduler" if "scheduler" in config else file.name


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
