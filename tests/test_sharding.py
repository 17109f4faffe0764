"""The mesh, the table of axes, and which rows a process holds."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pyramid_jax import sharding
from pyramid_jax.config import ConfigError, MeshConfig


def mesh(*shape, devices=None):
  return sharding.make_mesh(MeshConfig(*shape), devices)


@pytest.mark.parametrize(
  "shape, found",
  [
    ((1, -1, 1, 1), (1, 8, 1, 1)),
    ((-1, 2, 2, 1), (2, 2, 2, 1)),
    ((2, 2, 1, 2), (2, 2, 1, 2)),
  ],
)
def test_one_axis_may_take_the_devices_that_are_left(shape, found):
  assert tuple(mesh(*shape).shape.values()) == found


@pytest.mark.parametrize(
  "shape, message",
  [
    ((3, 1, 1, 1), r"'data': 3.* needs 3 devices; there are 8\. Change one"),
    ((3, -1, 1, 1), r"'fsdp': 2.* needs 6 devices; there are 8"),
    ((16, -1, 1, 1), r"needs 16 devices; there are 8"),
    ((0, -1, 1, 1), r"^config\.mesh\.data 0 is no number .* at least 1, or -1"),
    ((1, -3, 1, 1), r"^config\.mesh\.fsdp -3 is no number of devices"),
    (
      (-2, -2, 1, 1),
      r"^config\.mesh\.data -2 is no number",
    ),  # whose product is 4
    ((1, 8, 1, -8), r"^config\.mesh\.sequence -8 is no number"),
    ((-1, -1, 1, 1), r"mesh\.data and config\.mesh\.fsdp are -1; only one"),
  ],
)
def test_a_mesh_that_does_not_fit_the_devices_says_so(shape, message):
  with pytest.raises(ConfigError, match=message):
    mesh(*shape)


def test_a_dimension_that_cannot_be_divided_stays_whole():
  m = mesh(1, 4, 2, 1)
  shapes = {
    "even": jax.ShapeDtypeStruct((8, 6), np.float32),
    "odd": jax.ShapeDtypeStruct((6, 6), np.float32),
    "stack": jax.ShapeDtypeStruct((3, 8, 5), np.float32),
    "scale": jax.ShapeDtypeStruct((8,), np.float32),
  }
  axes = {
    "even": ("embed", "mlp"),
    "odd": ("embed", "mlp"),
    "stack": ("layers", "embed", "mlp"),
    "scale": (None,),
  }
  found = sharding.tree_shardings(m, shapes, axes)
  assert {k: s.spec for k, s in found.items()} == {
    "even": PartitionSpec("fsdp", "tensor"),
    "odd": PartitionSpec(None, "tensor"),
    "stack": PartitionSpec(None, "fsdp", None),
    "scale": PartitionSpec(None),
  }


def test_many_weights_that_stay_whole_are_told(caplog):
  """As those of a width of 1920 do on 256 devices, without another word."""
  axes = {"a": ("embed", "mlp"), "b": ("embed",)}
  shapes = {"a": np.zeros((1920, 4096)), "b": np.zeros(1920)}
  split = mesh(1, 4, 2, 1)
  sharding.tell_whole(split, shapes, axes)
  small = {"a": np.zeros((9, 9))}
  sharding.tell_whole(mesh(1, 8, 1, 1), small, {"a": axes["a"]})
  assert not caplog.text
  odd = {"a": np.zeros((1922, 4096)), "b": np.zeros(1922)}
  sharding.tell_whole(split, odd, axes)
  assert (
    "7.9 M parameters are not split by config.mesh.fsdp 4, of which embed 1922 "
    "is not a multiple; 2 would split them." in caplog.text
  )
  prime = {"a": np.zeros((1931, 4096)), "b": np.zeros(1931)}
  sharding.tell_whole(split, prime, axes)
  assert "embed 1931 is not a multiple.\n" in caplog.text


def test_one_process_holds_every_row():
  assert sharding.local_rows(mesh(2, 4, 1, 1), 16) == list(range(16))
  assert sharding.local_rows(mesh(1, 2, 4, 1), 2) == [0, 1]


def test_rows_that_the_mesh_cannot_divide_name_the_next_number():
  with pytest.raises(
    ConfigError,
    match=r"^10 rows .* data x fsdp = 4 devices; .* for example 12, or lower",
  ):
    sharding.local_rows(mesh(2, 2, 2, 1), 10)


class Chip:
  """A TPU chip of one of several slices, as `make_mesh` sees it."""

  platform, device_kind, core_on_chip = "tpu", "TPU v5 lite", 0

  def __init__(self, number, slice_index):
    self.id, self.slice_index, self.process_index = number, slice_index, 0
    self.coords = (number % 2, number % 4 // 2, 0)


def test_only_data_goes_from_slice_to_slice():
  chips = [Chip(i, i // 4) for i in range(8)]
  grid = sharding.arrange(chips[::-1], (2, 2, 2, 1))
  found = np.vectorize(lambda chip: chip.slice_index)(grid)
  assert (found == np.arange(2)[:, None, None, None]).all()
  assert {chip.id for chip in grid.flat} == set(range(8))
  with pytest.raises(
    ConfigError, match=r"data 1 is not a multiple of the 2 slices; .* to 2\.$"
  ):
    sharding.arrange(chips, (1, 4, 2, 1))


class Gpu:
  """A GPU of one of several nodes, which XLA calls slices."""

  platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

  def __init__(self, number, slice_index):
    self.id, self.slice_index = number, slice_index


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (2, 2, 2, 1), (1, 2, 4, 1)])
def test_any_axis_may_go_from_node_to_node_of_gpus(shape):
  gpus = [Gpu(i, i % 2) for i in range(8)]
  grid = sharding.arrange(gpus[::-1], shape)
  assert grid.shape == shape
  # neighbours along the last axes stay in a node
  assert [gpu.id for gpu in grid.flat] == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.fixture
def held(monkeypatch):
  """Makes this process one of several, that holds only some devices."""

  def hold(m, numbers):
    mine = {m.devices.flat[i] for i in numbers}
    monkeypatch.setattr(
      NamedSharding,
      "addressable_devices_indices_map",
      lambda self, shape: {
        d: i for d, i in self.devices_indices_map(shape).items() if d in mine
      },
    )
    monkeypatch.setattr(
      jax,
      "make_array_from_callback",
      lambda shape, where, part: [
        (d.id, part(i))
        for d, i in where.addressable_devices_indices_map(shape).items()
      ],
    )

  return hold


@pytest.mark.parametrize(
  "shape, devices, rows",
  [
    ((2, 2, 2, 1), [4, 5, 6, 7], [4, 5, 6, 7]),  # the second half
    ((2, 2, 2, 1), [0, 1, 4, 5], [0, 1, 4, 5]),  # not neighbours
    ((2, 2, 2, 1), [2, 6], [2, 3, 6, 7]),
    ((1, 2, 4, 1), [0, 1], [0, 1, 2, 3]),  # processes that share rows
  ],
)
def test_a_process_loads_and_places_only_its_rows(held, shape, devices, rows):
  m = mesh(*shape)
  held(m, devices)
  assert sharding.local_rows(m, 8) == rows
  batch = {"x": np.array(rows)[:, None] * [1, 10]}
  placed = sharding.place_batch(m, batch, 8)["x"]
  split = 8 // (shape[0] * shape[1])
  assert len(placed) == len(devices)
  for number, part in placed:
    first = number // (8 // (shape[0] * shape[1])) * split
    expected = np.arange(first, first + split)
    np.testing.assert_array_equal(part, expected[:, None] * [1, 10])


def test_a_placed_batch_is_the_batch():
  m = mesh(2, 2, 2, 1)
  batch = {"x": np.arange(24.0).reshape(8, 3), "n": np.arange(8)}
  placed = sharding.place_batch(m, batch, 8)
  for key, value in batch.items():
    np.testing.assert_array_equal(placed[key], value)
    assert placed[key].sharding.spec == PartitionSpec(("data", "fsdp"))


def test_without_a_mesh_a_constraint_changes_nothing():
  x = np.ones(3)
  assert sharding.constrain(x, "batch") is x


def test_a_process_among_several_has_a_mesh_of_its_own_devices(monkeypatch):
  local = jax.devices()[4:]
  monkeypatch.setattr(jax, "local_devices", lambda: local)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  shape = lambda **axes: sharding.make_local_mesh(MeshConfig(**axes))
  for axes, found in (
    ({}, (1, 4, 1, 1)),
    ({"data": 2, "fsdp": 2}, (2, 2, 1, 1)),  # of as many devices as it has
    ({"data": 2, "fsdp": 4}, (4, 1, 1, 1)),  # of all processes' devices
    ({"data": 1, "fsdp": 2, "tensor": 4}, (4, 1, 1, 1)),
  ):
    mesh = shape(**axes)
    assert mesh.devices.shape == found
    assert set(mesh.devices.flat) == set(local)
  with pytest.raises(ConfigError, match="needs 12 devices; there are 8"):
    shape(data=3, fsdp=4)
