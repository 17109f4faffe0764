"""Large frames through the VAE in overlapping tiles, blended where they meet.

Tiles begin every three quarters of their side; the last ones are what remains.
A tile is blended with the one above, then with the one to its left, both as
blended already, as the released code does.

Legend: B clips, T frames, H W space, C channels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

OVERLAP = 4  # a tile shares 1 / OVERLAP of its side with the next


def spans(size: int, tile: int) -> list[slice]:
  """Where the tiles of one dimension lie."""
  step = tile - tile // OVERLAP
  return [slice(i, min(i + tile, size)) for i in range(0, size, step)]


def run_tiles(
  run: Callable[[tuple[int, int], Any], Any],
  x_BTHWC: Any,
  tile: int,
  tile_out: int,
) -> np.ndarray:
  """Applies `run` tile by tile and joins what it gives, on the host.

  Only one tile is on the device at a time. Frames that are no larger than a
  tile go through whole.

  Args:
    run: (row and column of the tile, its values) -> [B, T', h, w, C'].
    x_BTHWC: of the whole frames.
    tile: side of a tile, in pixels of x.
    tile_out: side of what `run` makes of a whole tile.
  """
  _, _, H, W, _ = x_BTHWC.shape
  if max(H, W) <= tile:
    return np.asarray(run((0, 0), x_BTHWC))
  parts = [
    [
      np.array(run((i, j), x_BTHWC[:, :, rows, columns]))
      for j, columns in enumerate(spans(W, tile))
    ]
    for i, rows in enumerate(spans(H, tile))
  ]
  return _join(parts, tile_out)


def _join(parts: list[list[np.ndarray]], tile: int) -> np.ndarray:
  """The blended whole; changes `parts`."""
  extent = tile // OVERLAP
  keep = tile - extent
  result = []
  for i, row in enumerate(parts):
    for j, part in enumerate(row):
      if i > 0:
        _blend(parts[i - 1][j], part, extent, axis=2)
      if j > 0:
        _blend(row[j - 1], part, extent, axis=3)
    result.append(
      np.concatenate([part[:, :, :keep, :keep] for part in row], axis=3)
    )
  return np.concatenate(result, axis=2)


def _blend(before: np.ndarray, after: np.ndarray, extent: int, axis: int):
  """Fades from the end of `before` into the beginning of `after`, in place."""
  extent = min(extent, before.shape[axis], after.shape[axis])
  ahead = (slice(None),) * axis
  end, start = (*ahead, slice(-extent, None)), (*ahead, slice(extent))
  share = np.arange(extent, dtype=np.float32) / np.float32(extent)
  share = share.reshape(-1, *[1] * (after.ndim - axis - 1))
  after[start] = before[end] * (1 - share) + after[start] * share
