"""Folders of tensors in the Hugging Face layout, read lazily, written whole.

A component of a snapshot is a folder with `config.json` and its tensors: in one
file, or in shards that an index lists; safetensors, or what torch.save wrote.
"""

import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyramid_jax.config import UserError
from pyramid_jax.convert.torch_pickle import open_pickle
from pyramid_jax.tensors import Stored, create_file, open_file

Path = str | os.PathLike

SHARD_BYTES = 5 * 2**30
# what transformers and diffusers call the files
NAMES = ("model", "diffusion_pytorch_model")
PICKLED = (".bin", ".pth", ".pt")


class SnapshotError(UserError):
  """A folder that cannot be read or written; the message names the remedy."""


def open_tensors(folder: Path) -> dict[str, Stored]:
  """The tensors of a component folder by name; read when they are used.

  Raises:
    SnapshotError: there are none, or a shard is missing.
    TensorFileError: a file is not whole, or a pickle does more than data.
  """
  result = {}
  for path in _files(pathlib.Path(folder)):
    pickled = path.suffix in PICKLED
    result |= open_pickle(path) if pickled else open_file(path)
  return result


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a component folder that hold its tensors."""
  if folder.is_file():
    return [folder]
  for kind in ("safetensors", *(suffix[1:] for suffix in PICKLED)):
    found = sorted(folder.glob(f"*.{kind}"))
    if len(found) == 1:
      return found
    for name in NAMES:
      if (folder / f"{name}.{kind}").is_file():
        return [folder / f"{name}.{kind}"]
    indices = sorted(folder.glob(f"*.{kind}.index*.json"))
    if indices:
      shards = sorted(set(read_json(indices[0])["weight_map"].values()))
      for shard in shards:
        if not (folder / shard).is_file():
          raise SnapshotError(
            f"{indices[0]} lists {shard}, which is not there; fetch it."
          )
      return [folder / shard for shard in shards]
  there = ", ".join(p.name for p in sorted(folder.glob("*"))) or "nothing"
  raise SnapshotError(
    f"{folder} needs {NAMES[0]}.safetensors or {NAMES[1]}.safetensors, or "
    f"shards that an .index.json lists; there is {there}."
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
  tensors: Mapping[str, Any],
  name: str = NAMES[0],
  shard_bytes: int = SHARD_BYTES,
):
  """Writes config.json and the tensors, in shards if they exceed one.

  A tensor is made when its turn comes, one at a time.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  write_json(folder / "config.json", config)
  shards, size, total = [{}], 0, 0
  for key, x in tensors.items():
    bytes_ = math.prod(x.shape) * np.dtype(x.dtype).itemsize
    if shards[-1] and size + bytes_ > shard_bytes:
      shards.append({})
      size = 0
    shards[-1][key] = x
    size, total = size + bytes_, total + bytes_
  if len(shards) == 1:
    _save(folder / f"{name}.safetensors", shards[0])
    return
  where = {}
  for i, shard in enumerate(shards, 1):
    file = f"{name}-{i:05d}-of-{len(shards):05d}.safetensors"
    _save(folder / file, shard)
    where |= dict.fromkeys(shard, file)
  write_json(
    folder / f"{name}.safetensors.index.json",
    {"metadata": {"total_size": total}, "weight_map": where},
  )


def _save(path: pathlib.Path, tensors: Mapping[str, Any]):
  with create_file(path, tensors) as writer:
    for name, x in tensors.items():
      writer.write(name, np.asarray(x))


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
