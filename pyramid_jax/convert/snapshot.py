"""Folders of tensors in the Hugging Face layout, read lazily, written whole.

A component of a snapshot is a folder with `config.json` and either one
`model.safetensors` or shards that `model.safetensors.index.json` lists.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16, before safetensors reads it
import numpy as np
import safetensors
import safetensors.numpy

from pyramid_jax.config import UserError

Path = str | os.PathLike

SHARD_BYTES = 5 * 2**30


class SnapshotError(UserError):
  """A folder that cannot be read or written; the message names the remedy."""


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor on disk; becomes a numpy array when numpy asks for one."""

  path: pathlib.Path
  name: str
  shape: tuple[int, ...]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    with safetensors.safe_open(self.path, framework="numpy") as file:
      x = file.get_tensor(self.name)
    return x if dtype is None else x.astype(dtype)


class Tensors(Mapping[str, Stored]):
  """The tensors of a component folder by name."""

  def __init__(self, folder: Path):
    self.folder = pathlib.Path(folder)
    self._tensors = {}
    for path in _files(self.folder):
      try:
        with safetensors.safe_open(path, framework="numpy") as file:
          for name in file.keys():  # noqa: SIM118  not a mapping
            shape = tuple(file.get_slice(name).get_shape())
            self._tensors[name] = Stored(path, name, shape)
      except safetensors.SafetensorError as error:
        raise SnapshotError(
          f"{path} is not a whole safetensors file ({error}); fetch it again."
        ) from error

  def __getitem__(self, name: str) -> Stored:
    return self._tensors[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._tensors)

  def __len__(self) -> int:
    return len(self._tensors)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The safetensors files of a component folder."""
  single = folder / "model.safetensors"
  if single.is_file():
    return [single]
  indices = sorted(folder.glob("*.safetensors.index*.json"))
  if indices:
    shards = set(read_json(indices[0])["weight_map"].values())
    paths = [folder / shard for shard in sorted(shards)]
    for path in paths:
      if not path.is_file():
        raise SnapshotError(
          f"{indices[0]} lists {path.name}, which is not there; fetch it."
        )
    return paths
  found = sorted(folder.glob("*.safetensors"))
  if len(found) == 1:
    return found
  there = ", ".join(p.name for p in sorted(folder.glob("*"))) or "nothing"
  raise SnapshotError(
    f"{folder} needs model.safetensors, or model.safetensors.index.json with "
    f"its shards; there is {there}. Weights in another format must be saved "
    "as safetensors first."
  )


def read_json(path: Path) -> dict[str, Any]:
  """A JSON object from a file.

  Raises:
    SnapshotError: the file is missing or is not a JSON object.
  """
  try:
    values = json.loads(pathlib.Path(path).read_text())
  except FileNotFoundError:
    raise SnapshotError(
      f"{path} does not exist; the folder must have the layout of a Hugging "
      "Face snapshot."
    ) from None
  except ValueError as error:
    raise SnapshotError(f"{path} is not JSON: {error}.") from error
  if not isinstance(values, dict):
    raise SnapshotError(f"{path} holds {type(values).__name__}, not an object.")
  return values


def write_json(path: Path, values: Mapping[str, Any]):
  """Writes a JSON object, one key a line."""
  pathlib.Path(path).write_text(json.dumps(values, indent=2) + "\n")


def write_component(
  folder: Path,
  config: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  shard_bytes: int = SHARD_BYTES,
):
  """Writes config.json and the tensors, in shards if they exceed one."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  write_json(folder / "config.json", config)
  shards, size = [{}], 0
  for name, x in tensors.items():
    if shards[-1] and size + x.nbytes > shard_bytes:
      shards.append({})
      size = 0
    shards[-1][name] = x
    size += x.nbytes
  if len(shards) == 1:
    _save(folder / "model.safetensors", shards[0])
    return
  where = {}
  for i, shard in enumerate(shards, 1):
    file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
    _save(folder / file, shard)
    where |= dict.fromkeys(shard, file)
  total = sum(x.nbytes for x in tensors.values())
  write_json(
    folder / "model.safetensors.index.json",
    {"metadata": {"total_size": total}, "weight_map": where},
  )


def _save(path: pathlib.Path, tensors: Mapping[str, np.ndarray]):
  # "format" is what loaders of this layout ask for first.
  safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt"})


def write_beside(folder: Path, write: Callable[[pathlib.Path], None]):
  """Calls `write` with a folder beside `folder`, then renames it.

  So `folder` is there whole or not at all.

  Raises:
    SnapshotError: `folder` already exists.
  """
  folder = pathlib.Path(folder)
  if folder.exists():
    raise SnapshotError(
      f"{folder} already exists; remove it or name another folder."
    )
  partial = folder.with_name(folder.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  try:
    write(partial)
    partial.rename(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
