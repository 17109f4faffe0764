"""Files of torch.save are read as data; a pickle that is more does not run."""

import collections
import io
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from pyramid_jax.convert.snapshot import open_tensors
from pyramid_jax.convert.torch_pickle import open_pickle
from pyramid_jax.tensors import TensorFileError


@pytest.fixture
def torch(monkeypatch):
  """Modules with the names that such a pickle mentions."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  for module, name in (
    (utils, "_rebuild_tensor_v2"),
    (torch, "FloatStorage"),
    (torch, "BFloat16Storage"),
  ):
    made = lambda *args: None
    made.__module__, made.__qualname__ = module.__name__, name
    setattr(module, name, made)
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)
  return torch


def save(path, torch, arrays, wrap=lambda x: x, strides=None, old=False):
  """What torch.save writes, from numpy arrays; `old`: before torch 1.6."""
  storages = []

  class Saved:
    def __init__(self, x):
      self.x = x

    def __reduce__(self):
      storages.append(self.x)
      size = self.x.dtype.itemsize
      steps = strides or tuple(s // size for s in self.x.strides)
      storage = Storage(len(storages) - 1)
      arguments = (storage, 0, self.x.shape, steps, False, {})
      return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments

  class Storage:
    def __init__(self, key):
      self.key = key

  class Pickler(pickle.Pickler):
    def persistent_id(self, x):
      if not isinstance(x, Storage):
        return None
      kind = storages[x.key]
      name = "FloatStorage" if kind.dtype == "float32" else "BFloat16Storage"
      return (
        "storage",
        getattr(torch, name),
        str(x.key),
        "cpu",
        kind.size,
        *[None] * old,
      )

  tree = collections.OrderedDict((k, Saved(x)) for k, x in arrays.items())
  content = io.BytesIO()
  Pickler(content, protocol=2).dump(wrap(tree))
  if old:
    keys = pickle.dumps([str(i) for i in range(len(storages))], 2)
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {})]
    raw = [x.size.to_bytes(8, "little") + x.tobytes() for x in storages]
    path.write_bytes(b"".join([*head, content.getvalue(), keys, *raw]))
    return
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", content.getvalue())
    for i, x in enumerate(storages):
      archive.writestr(f"archive/data/{i}", x.tobytes())


ARRAYS = {
  "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
  "a.bias": np.arange(3).astype(ml_dtypes.bfloat16),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
  "wrap", [lambda x: x, lambda x: {"model": x, "step": 3}]
)
def test_tensors_are_read(tmp_path, torch, wrap, old):
  save(tmp_path / "weights.pth", torch, ARRAYS, wrap, old=old)
  found = open_tensors(tmp_path)
  assert found.keys() == ARRAYS.keys()
  for name, x in ARRAYS.items():
    assert found[name].dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(found[name]), x)
  np.testing.assert_array_equal(found["a.weight"][1:3, ::2], x_part())


def test_an_old_file_that_ends_too_early_is_refused(tmp_path, torch):
  path = tmp_path / "w.pth"
  save(path, torch, ARRAYS, old=True)
  whole = path.read_bytes()
  for size in (len(whole) - 1, len(whole) - 60, 60, 16, 5):
    path.write_bytes(whole[:size])
    with pytest.raises(TensorFileError, match=r"w\.pth"):
      open_pickle(path)


def x_part():
  return ARRAYS["a.weight"][1:3, ::2]


def test_a_tensor_that_is_not_stored_row_by_row_is_refused(tmp_path, torch):
  save(tmp_path / "w.pt", torch, ARRAYS, strides=(1, 3))
  with pytest.raises(TensorFileError, match=r"strides \(1, 3\).*contiguous"):
    open_pickle(tmp_path / "w.pt")


class Malice:
  """Creates a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("where", ["value", "wrapped", "tensor"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
  tmp_path, torch, where, old
):
  proof = tmp_path / "proof"
  wrap = {
    "value": lambda x: {**x, "z": Malice(proof)},
    "wrapped": lambda x: {"model": x, "optimizer": [Malice(proof)]},
    "tensor": lambda x: Malice(proof),
  }[where]
  save(tmp_path / "w.pth", torch, ARRAYS, wrap, old=old)
  with pytest.raises(TensorFileError, match="asks for .*open.*was not run"):
    open_pickle(tmp_path / "w.pth")
  assert not proof.exists()


@pytest.mark.parametrize(
  "content, message",
  [
    (b"no zip at all", "not what torch.save writes"),
    (pickle.dumps({"a": 1}), "not what torch.save writes"),
  ],
)
def test_other_files_are_refused(tmp_path, content, message):
  (tmp_path / "w.pth").write_bytes(content)
  with pytest.raises(TensorFileError, match=message):
    open_pickle(tmp_path / "w.pth")


def test_a_file_without_tensors_says_what_it_holds(tmp_path, torch):
  save(tmp_path / "w.pth", torch, {}, lambda x: {"epoch": 1})
  with pytest.raises(TensorFileError, match="no tensors; its keys: epoch"):
    open_pickle(tmp_path / "w.pth")
