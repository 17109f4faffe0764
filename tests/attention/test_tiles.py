"""The table of block sizes: whose are taken, and what kernels ask of them."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from pyramid_jax.attention import tiles

OTHER = {
  "tpu": tiles.TPUTiles(query=256, key=512, compute=256),
  "gpu": tiles.GPUTiles(*[tiles.GPUTile(32, 32, 4, 1)] * 3),
}


def taken(monkeypatch, platform, device):
  """The block sizes on a mesh of such devices, two of which are special."""
  monkeypatch.setitem(tiles.CHIPS, "TPU v5 lite", OTHER["tpu"])
  monkeypatch.setitem(tiles.CHIPS, "NVIDIA A100", OTHER["gpu"])
  mesh = AbstractMesh(
    (1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device
  )
  with jax.sharding.use_abstract_mesh(mesh):
    return tiles.for_platform(platform)


@pytest.mark.parametrize(
  "platform, kind, expected",
  [
    ("tpu", "TPU v5 lite", OTHER["tpu"]),
    ("tpu", "TPU v5", tiles.TPU),  # v5p, whose name begins the other's
    ("tpu", "TPU v9", tiles.TPU),  # not in the table
    ("gpu", "NVIDIA A100-SXM4-80GB", OTHER["gpu"]),
    ("gpu", "NVIDIA H100 80GB HBM3", tiles.GPU),
    ("gpu", "NVIDIA B300", tiles.GPU),
  ],
)
def test_a_chip_has_its_own_blocks_else_those_of_its_platform(
  monkeypatch, platform, kind, expected
):
  device = AbstractDevice(kind, None, platform)
  assert taken(monkeypatch, platform, device) is expected


def test_lowered_for_another_platform_than_the_meshs_blocks_are_that_ones(
  monkeypatch,
):
  device = AbstractDevice("TPU v5 lite", None, "tpu")
  assert taken(monkeypatch, "gpu", device) is tiles.GPU
  assert taken(monkeypatch, "tpu", None) is tiles.TPU


def test_all_blocks_are_such_as_the_kernels_take():
  for found in (*tiles.PLATFORMS.values(), *tiles.CHIPS.values()):
    if isinstance(found, tiles.TPUTiles):
      assert not any(size % 128 for size in found)
      assert found.key % found.compute == 0
    else:
      for tile in found:
        assert {tile.query & (tile.query - 1), tile.key & (tile.key - 1)} == {0}
