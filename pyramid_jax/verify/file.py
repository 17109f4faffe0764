"""Reference files: what the PyTorch code computed, with all that it came from.

An .npz with `param/<torch name>`, `in/...` (every random draw included),
`mid/...`, `out/...`, `grad/<run>/<torch name>`, and `config`, a JSON text. The
keys of the config say what kind of file it is.
"""

import dataclasses
import json
import os
import pathlib
import zipfile

import numpy as np

from pyramid_jax.config import UserError


class ReferenceFileError(UserError):
  """A file that cannot be read or compared."""


@dataclasses.dataclass
class Reference:
  """One file: `config` as a dict, arrays by key."""

  path: pathlib.Path
  config: dict
  arrays: dict[str, np.ndarray]

  @property
  def name(self) -> str:
    return self.path.stem

  def __getitem__(self, key: str) -> np.ndarray:
    return self.arrays[key]

  def __contains__(self, key: str) -> bool:
    return key in self.arrays

  def under(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose key starts with `prefix`, which is cut off."""
    return {
      key[len(prefix) :]: value
      for key, value in self.arrays.items()
      if key.startswith(prefix)
    }

  def numbered(self, prefix: str) -> list[np.ndarray]:
    """The arrays under a prefix that ends in a number, in its order."""
    number = lambda item: int(item[0].split("/")[0])
    return [x for _, x in sorted(self.under(prefix).items(), key=number)]


def read(path: str | os.PathLike) -> Reference:
  """Reads a file whole.

  Raises:
    ReferenceFileError: it is not an .npz, or its config is not JSON.
  """
  path = pathlib.Path(path)
  try:
    with np.load(path) as file:
      arrays = {key: file[key] for key in file.files if key != "config"}
      config = json.loads(str(file["config"])) if "config" in file.files else {}
  except FileNotFoundError:
    raise ReferenceFileError(f"{path} does not exist.") from None
  except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
    raise ReferenceFileError(
      f"{path} is not a reference file (.npz with a JSON config): {error}."
    ) from error
  return Reference(path, config, arrays)


def kind(file: Reference) -> str:
  """What a file compares, by the keys of its config."""
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
    if any("untiled" in key for key in file.arrays):
      return "vae_tiled"
    if "out/groupnorm12" in file:
      return "vae_blocks"
    if any("_uint8" in key for key in file.arrays):
      return "vae_pipeline"
    return "vae"
  if "loss" in config:
    return "vae_loss"
  if "clip_l" in config:
    return "text"
  if "scheduler" in config:
    return "scheduler"
  if "n_blocks" in config:
    return "block_noise"
  if "embed_dim" in config:
    return "positions"
  if "columns" in config:
    return "stage_lengths"
  if all(key.startswith("param/") for key in file.arrays):
    return "weights"  # of files beside it
  return "unknown"
