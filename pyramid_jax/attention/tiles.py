"""Block sizes of the attention kernels: the one table, chip by chip.

A device is known by its kind, which the current mesh tells; without a mesh the
platform's default is taken, which fits every chip of it.
"""

from typing import NamedTuple

import jax


class TPUTiles(NamedTuple):
  """Tokens a block, forward and backward; multiples of 128."""

  query: int
  key: int
  compute: int  # keys multiplied at once; divides key


class GPUTile(NamedTuple):
  """Tokens a block, powers of two, and how Triton runs one."""

  query: int
  key: int
  warps: int
  stages: int


class GPUTiles(NamedTuple):
  forward: GPUTile
  grad_query: GPUTile
  grad_key: GPUTile


TPU = TPUTiles(query=512, key=1024, compute=512)
GPU = GPUTiles(
  forward=GPUTile(query=128, key=64, warps=8, stages=3),
  grad_query=GPUTile(query=128, key=64, warps=8, stages=2),
  grad_key=GPUTile(query=64, key=128, warps=8, stages=2),
)

PLATFORMS = {"tpu": TPU, "cuda": GPU}
CHIPS: dict[str, TPUTiles | GPUTiles] = {}


def for_platform(platform: str) -> TPUTiles | GPUTiles:
  """The block sizes for the current mesh's chips, of "tpu" or "cuda"."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None:
    for kind, tiles in CHIPS.items():
      if device.device_kind.startswith(kind):
        return tiles
  return PLATFORMS[platform]
