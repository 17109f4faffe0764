"""Block sizes of the attention kernels: the one table, chip by chip.

TPU. A block of 512 queries does 512 operations for every byte of keys and
values that it reads: a v4, v5e, v5p or 7x needs 166 to 313 to be bound by its
matrix units, a v6e 560, which no head dim below 256 fills. Blocks up to
1024 x 2048 compile for all five, 2048 x 2048 overflow the vector memory of v4,
v5e and v5p; larger ones cover more pairs that the mask forbids. None was timed
on a TPU.

GPU. The largest blocks at head dim 64 whose registers do not spill on compute
capability 8.0 and 9.0. None was timed on a GPU.
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
  """One for each kernel."""

  forward: GPUTile
  grad_query: GPUTile
  grad_key: GPUTile


TPU = TPUTiles(query=512, key=1024, compute=512)
GPU = GPUTiles(
  forward=GPUTile(query=128, key=64, warps=8, stages=3),
  grad_query=GPUTile(query=128, key=64, warps=8, stages=2),
  grad_key=GPUTile(query=64, key=128, warps=8, stages=2),
)

# By platform, for chips not below and where the chip is not known: it fits all.
PLATFORMS = {"tpu": TPU, "gpu": GPU}
# By the beginning of a device's kind.
CHIPS: dict[str, TPUTiles | GPUTiles] = {
  "TPU v4": TPU,
  "TPU v5 lite": TPU,
  "TPU v5": TPU,  # v5p
  "TPU v6 lite": TPU,
  "TPU7x": TPU,
  "NVIDIA A100": GPU,
  "NVIDIA H100": GPU,
  "NVIDIA H200": GPU,
}


def for_platform(platform: str) -> TPUTiles | GPUTiles:
  """The block sizes for the current mesh's chips, "tpu" or "gpu".

  A program may be lowered for other chips than the mesh's: then, and without a
  mesh, they are the platform's.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None and device.platform == platform:
    return of_kind(device.device_kind) or PLATFORMS[platform]
  return PLATFORMS[platform]


def of_kind(device_kind: str) -> TPUTiles | GPUTiles | None:
  """The block sizes of the devices that JAX calls so; None if not known."""
  for kind, tiles in CHIPS.items():
    if device_kind.startswith(kind):
      return tiles
  return None
