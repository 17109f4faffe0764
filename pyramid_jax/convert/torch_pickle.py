"""Files that torch.save wrote, read without torch and without running them.

Such a file is a zip: a pickle that describes the tensors, and one raw member
for each storage. Before torch 1.6 it was a row of pickles (a number, a version,
sizes of C, the tensors, the storages' keys) and the storages behind them. A
pickle is a program; these may only build dicts and tensors, anything else is
refused before it runs.
"""

import collections
import io
import math
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from pyramid_jax.tensors import Stored, TensorFileError

STORAGES = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
# what reading or building from a broken file ends in
FAULTS = (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError,
          IndexError, AttributeError)  # fmt: skip
OLD_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # before torch 1.6
WRAPPERS = ("state_dict", "model", "module", "ema")  # around a state dict


def open_pickle(path: str | os.PathLike) -> dict[str, Stored]:
  """The state dict of a file, its tensors read when they are used.

  A dict around the state dict ("model": ...) is taken off.

  Raises:
    TensorFileError: not such a file, a pickle that asks for more than data, a
      tensor that is not stored row by row, or none at all.
  """
  path = pathlib.Path(path)
  try:
    found = _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
  except FAULTS as error:
    raise TensorFileError(
      f"{path} is not whole, or not what torch.save writes ({error}); fetch it "
      "again, or save it as safetensors."
    ) from error
  except pickle.UnpicklingError as error:
    raise TensorFileError(f"{path}: {error}") from error
  for key in WRAPPERS:
    if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
      found = found[key]
      break
  if not isinstance(found, Mapping):
    raise TensorFileError(f"{path} holds {type(found).__name__}, no dict.")
  tensors = {k: x for k, x in found.items() if isinstance(x, Stored)}
  if not tensors:
    raise TensorFileError(
      f"{path} holds no tensors; its keys: {', '.join(map(str, found))[:200]}."
    )
  return tensors


def _read_zip(path: pathlib.Path) -> Any:
  """What a file of torch 1.6 or newer holds."""
  with zipfile.ZipFile(path) as archive:
    members = {
      m.filename.split("/", 1)[1]: m
      for m in archive.infolist()
      if "/" in m.filename
    }
    content = archive.read(members["data.pkl"])
    offsets = {
      name.removeprefix("data/"): _offset(archive, member)
      for name, member in members.items()
      if name.startswith("data/")
    }
  return _Unpickler(io.BytesIO(content), path, offsets).load()


def _read_old(path: pathlib.Path) -> Any:
  """What a file of torch before 1.6 holds.

  Where a storage begins depends on the sizes of those before it, which the
  tensors tell: they are built twice.
  """
  with open(path, "rb") as file:
    load = lambda offsets: _Unpickler(file, path, offsets)
    if file.read(len(OLD_START)) != OLD_START:
      raise ValueError("it begins otherwise")
    load({}).load(), load({}).load()
    start = file.tell()
    first = load(collections.defaultdict(int))
    first.load()
    keys, offsets = load({}).load(), {}
    for key in keys:
      count = int.from_bytes(file.read(8), "little")
      offsets[key] = file.tell()
      size = count * first.dtypes[key].itemsize
      if file.seek(size, os.SEEK_CUR) > path.stat().st_size:
        raise EOFError("it ends too early")
    file.seek(start)
    return load(offsets).load()


def _offset(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
  """Where a member's bytes begin in the file."""
  if member.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f"{member.filename} is compressed")
  file = archive.fp
  file.seek(member.header_offset + 26)
  name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
  return member.header_offset + 30 + name + extra


class _Unpickler(pickle.Unpickler):
  """Builds dicts of `Stored`; refuses every other name of a function."""

  def __init__(self, file: BinaryIO, path: pathlib.Path, offsets: Mapping):
    super().__init__(file)
    self._path, self._offsets = path, offsets
    self.dtypes: dict[str, np.dtype] = {}  # of the storages, by their keys

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return self._tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return lambda data, *rest: data
    if module == "torch" and name in STORAGES:
      return np.dtype(STORAGES[name])
    raise pickle.UnpicklingError(
      f"its pickle asks for {module}.{name}, which is more than tensors and "
      "dicts; it was not run. Take the file from a source you trust and save "
      "it as safetensors."
    )

  def persistent_load(self, saved: tuple) -> tuple[np.dtype, int]:
    kind, dtype, key, *_ = saved
    if kind != "storage" or not isinstance(dtype, np.dtype):
      raise pickle.UnpicklingError(f"{kind} of {dtype} is not a storage.")
    self.dtypes[key] = dtype
    return dtype, self._offsets[key]

  def _tensor(self, storage, start, shape, strides, *rest) -> Stored:
    dtype, offset = storage
    shape = tuple(shape)
    rows = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    counts = [i for i, n in enumerate(shape) if n > 1]
    if any(strides[i] != rows[i] for i in counts):
      raise pickle.UnpicklingError(
        f"a tensor of shape {shape} is stored with strides {tuple(strides)}, "
        "not row by row; save contiguous tensors."
      )
    return Stored(self._path, offset + start * dtype.itemsize, shape, dtype)
