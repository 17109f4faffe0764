"""Files of tensors: those of the safetensors library, a piece at a time."""

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from pyramid_jax import tensors

ARRAYS = {
  "a": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
  "b": np.arange(5).astype(ml_dtypes.bfloat16),
  "scalar": np.array(3.5),
  "empty": np.zeros((0, 3), np.int8),
}


def write(path):
  with tensors.create_file(path, ARRAYS) as writer:
    for i in (2, 0, 3, 1):
      writer.write("a", ARRAYS["a"][i], i)
    for name in ("scalar", "b"):
      writer.write(name, ARRAYS[name])


def test_both_libraries_read_what_the_other_wrote(tmp_path):
  write(tmp_path / "ours")
  safetensors.numpy.save_file(ARRAYS, tmp_path / "theirs")
  found = safetensors.numpy.load_file(tmp_path / "ours")
  theirs = tensors.open_file(tmp_path / "theirs")
  for name, x in ARRAYS.items():
    for y in (found[name], np.asarray(theirs[name])):
      assert y.dtype == x.dtype and y.shape == x.shape
      np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
  "at",
  [1, -1, slice(1, 3), slice(None, None, 2), (slice(1, 4), 2), ..., (..., 1),
   (2, slice(None), 1), slice(4, 4)],
  ids=str,
)  # fmt: skip
def test_a_part_is_what_numpy_gives(tmp_path, at):
  write(tmp_path / "file")
  part = tensors.open_file(tmp_path / "file")["a"][at]
  np.testing.assert_array_equal(part, ARRAYS["a"][at])


def test_a_failed_write_leaves_nothing(tmp_path):
  path = tmp_path / "file"
  with pytest.raises(RuntimeError), tensors.create_file(path, ARRAYS):
    raise RuntimeError
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "damage",
  [
    lambda b: b[:-1],
    lambda b: b[:20],
    lambda b: b"",
    lambda b: b"\xff" * 64,
    lambda b: b.replace(b'"F32"', b'"F3X"'),
  ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
  write(tmp_path / "file")
  content = (tmp_path / "file").read_bytes()
  (tmp_path / "file").write_bytes(damage(content))
  with pytest.raises(tensors.TensorFileError, match="not a whole safetensors"):
    tensors.open_file(tmp_path / "file")


def test_wider_arrays_are_narrowed_as_they_are_placed(tmp_path):
  write(tmp_path / "file")
  stored = tensors.open_file(tmp_path / "file")
  most = {"a": ml_dtypes.bfloat16, "b": np.float32}
  stored = {name: stored[name] for name in most}
  most = {
    name: jax.ShapeDtypeStruct(stored[name].shape, dtype)
    for name, dtype in most.items()
  }
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  places = dict.fromkeys(most, place)
  for wanted, dtype in ((None, "float32"), (most, "bfloat16")):
    found = tensors.place_tree(stored, places, wanted)
    assert (found["a"].dtype, found["b"].dtype) == (dtype, "bfloat16")
    np.testing.assert_array_equal(
      found["a"], ARRAYS["a"].astype(found["a"].dtype)
    )
