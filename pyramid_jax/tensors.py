"""Arrays in safetensors files, read and written one at a time.

Nothing is mapped into memory, so what a program needs is the largest array it
asks for, not the file.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from pyramid_jax.config import UserError

Path = str | os.PathLike
WEIGHTS = "weights.safetensors"  # a model's parameters, by their dotted paths
DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class TensorFileError(UserError):
  """A file of tensors that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Stored:
  """An array on disk, row by row; read when indexed or when numpy asks."""

  path: pathlib.Path
  offset: int  # bytes
  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, at: Any) -> np.ndarray:
    """The part at an index; only its leading rows are read."""
    at = at if isinstance(at, tuple) else (at,)
    if not self.shape or not at or not isinstance(at[0], (int, slice)):
      return self._rows(0, None)[at]
    first = at[0]
    if isinstance(first, int):
      row = range(self.shape[0])[first]
      return self._rows(row, row + 1)[(0, *at[1:])]
    start, stop, step = first.indices(self.shape[0])
    return self._rows(start, stop)[(slice(None, None, step), *at[1:])]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    x = self._rows(0, None)
    return x if dtype is None else x.astype(dtype)

  def _rows(self, start: int, stop: int | None) -> np.ndarray:
    shape, row = self.shape, math.prod(self.shape[1:])
    if stop is not None:
      shape = (stop - start, *shape[1:])
    x = np.empty(math.prod(shape), self.dtype)
    with open(self.path, "rb") as file:
      file.seek(self.offset + start * row * self.dtype.itemsize)
      if file.readinto(memoryview(x.view(np.uint8))) != x.nbytes:
        raise TensorFileError(f"{self.path} ends too early; fetch it again.")
    return x.reshape(shape)


def open_file(path: Path) -> dict[str, Stored]:
  """The arrays of a safetensors file by name.

  Raises:
    TensorFileError: it is not one, not whole, or of a kind of number that
      numpy has not.
  """
  path = pathlib.Path(path)
  try:
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      if length > 100_000_000:  # the format's own limit
        raise ValueError(f"a header of {length} bytes")
      header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    result = {
      name: Stored(
        path,
        8 + length + entry["data_offsets"][0],
        tuple(entry["shape"]),
        DTYPES[entry["dtype"]],
      )
      for name, entry in header.items()
    }
    for x in result.values():
      size = math.prod(x.shape) * x.dtype.itemsize
      if x.offset + size > path.stat().st_size:
        raise ValueError("it ends too early")
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise TensorFileError(
      f"{path} is not a whole safetensors file ({error}); fetch it again."
    ) from error
  return result


class Writer:
  """Fills the arrays of a safetensors file in any order."""

  def __init__(self, file: BinaryIO, offsets: Mapping[str, int]):
    self._file, self._offsets = file, offsets

  def write(self, name: str, value: np.ndarray, row: int = 0):
    """Writes a whole array, or one of its leading rows."""
    value = np.ascontiguousarray(value)
    self._file.seek(self._offsets[name] + row * value.nbytes)
    self._file.write(value.reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def create_file(path: Path, arrays: Mapping[str, Any]) -> Iterator[Writer]:
  """A new safetensors file; what is not written of its `arrays` is 0.

  `arrays` has their shapes and dtypes. The file has its name only when the
  block ends well.
  """
  path = pathlib.Path(path)
  header, end = {"__metadata__": {"format": "pt"}}, 0
  for name, x in arrays.items():
    start, end = end, end + math.prod(x.shape) * np.dtype(x.dtype).itemsize
    header[name] = {
      "dtype": CODES[np.dtype(x.dtype)],
      "shape": list(x.shape),
      "data_offsets": [start, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  base = 8 + len(text)
  offsets = {
    name: base + entry["data_offsets"][0]
    for name, entry in header.items()
    if "shape" in entry
  }
  beside = path.with_name(f"{path.name}.partial")
  try:
    with open(beside, "wb") as file:
      file.write(len(text).to_bytes(8, "little") + text)
      file.truncate(base + end)
      yield Writer(file, offsets)
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def flat(tree: Mapping[Any, Any]) -> dict[str, Any]:
  """A nested dict's arrays by their dotted paths."""
  return {
    ".".join(map(str, path)): x
    for path, x in traverse_util.flatten_dict(tree).items()
  }


def read_tree(path: Path) -> dict[str, Any]:
  """The nested dict whose `flat` paths name the arrays of a file.

  Numbers in a path are places in a list, which parameters have as integers.
  """
  key = lambda part: int(part) if part.isdigit() else part
  return traverse_util.unflatten_dict(
    {tuple(map(key, n.split("."))): x for n, x in open_file(path).items()}
  )


def place_tree(tree: Any, shardings: Any, most: Any = None) -> Any:
  """Stored arrays on a mesh; every device's part is read for it alone.

  `most` has arrays of the same shapes: a wider dtype than theirs is narrowed.
  """

  def one(x, place, most):
    narrow = min(x.dtype, most.dtype, key=lambda dtype: dtype.itemsize)
    part = lambda at: np.ascontiguousarray(x[at]).astype(narrow, copy=False)
    return jax.make_array_from_callback(x.shape, place, part)

  return jax.tree.map(
    one,
    tree,
    shardings,
    tree if most is None else most,
    is_leaf=lambda x: isinstance(x, Stored),
  )
