"""Down and Up between the levels of the pyramid, and patches of its pixels.

Every function takes numpy and jax arrays alike. Level 0 is the coarsest, K-1
the full resolution.

Legend: T frames, H W space of an array, h w patches, p q pixels of a block or
patch, C channels, N tokens of all levels, D = p p C; any dimensions may lead.
"""

from collections.abc import Sequence
from typing import TypeVar

import einops
import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)


def down(x: Array) -> Array:
  """Halves H and W of [..., H, W, C].

  Bilinear with half-pixel centres and no antialias, which at a factor of 2 is
  the mean of every 2 x 2 block.

  Raises:
    ValueError: H or W is odd.
  """
  height, width = x.shape[-3:-1]
  if height % 2 or width % 2:
    raise ValueError(
      f"{height} x {width} cannot be halved. The finest level must be a "
      "multiple of 2^(stages - 1) on both sides, times the patch size."
    )
  if isinstance(x, np.ndarray):  # the same values, in a quarter of the time
    a, b, c, d = (x[..., p::2, q::2, :] for p in (0, 1) for q in (0, 1))
    return (a + b + c + d) / 4
  return einops.reduce(x, "... (H p) (W q) C -> ... H W C", "mean", p=2, q=2)


def up(x: Array, method: str = "nearest") -> Array:
  """Doubles H and W of [..., H, W, C].

  "nearest" repeats every value, which the jump between stages relies on (paper
  Eq. 12); "bilinear" has half-pixel centres and repeats the border.

  Raises:
    ValueError: another method.
  """
  if method == "nearest":
    return einops.repeat(x, "... H W C -> ... (H p) (W q) C", p=2, q=2)
  if method == "bilinear":
    rows = _halfway(x, -3)
    x = einops.rearrange(rows, "p ... H W C -> ... (H p) W C")
    columns = _halfway(x, -2)
    return einops.rearrange(columns, "q ... H W C -> ... H (W q) C")
  raise ValueError(f'upsample {method!r} is not "nearest" or "bilinear".')


def _halfway(x: Array, axis: int) -> list[Array]:
  """The values a quarter before and a quarter after every entry of an axis."""
  size = x.shape[axis]
  before = x.take(np.maximum(np.arange(size) - 1, 0), axis=axis)
  after = x.take(np.minimum(np.arange(size) + 1, size - 1), axis=axis)
  return [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]


def pyramid(x: Array, stages: int) -> list[Array]:
  """The levels of [..., H, W, C], coarsest first; the last is `x` itself."""
  levels = [x]
  for _ in range(stages - 1):
    levels.insert(0, down(levels[0]))
  return levels


def noise_pyramid(x: Array, stages: int) -> list[Array]:
  """The levels of unit normal noise, each unit normal again.

  The mean of four has half the deviation, hence the factor 2 a level.
  """
  levels = [x]
  for _ in range(stages - 1):
    levels.insert(0, 2 * down(levels[0]))
  return levels


def coarse_pyramid(levels: Sequence[Array], method: str = "nearest") -> list:
  """What each level looks like from the one below, Up(Down(x)); 0 at level 0.

  This is the signal that a stage starts from (paper Eq. 9, 10).
  """
  return [levels[0] * 0] + [up(level, method) for level in levels[:-1]]


def patchify(x: Array, patch: int) -> Array:
  """[..., T, H, W, C] -> [..., T h w, p p C]; within a patch y, x, channel.

  Raises:
    ValueError: H or W is not a multiple of the patch.
  """
  height, width = x.shape[-3:-1]
  if height % patch or width % patch:
    raise ValueError(
      f"{height} x {width} does not divide into patches of {patch}; both sides "
      f"of the coarsest level must be multiples of {patch}."
    )
  return einops.rearrange(
    x, "... T (h p) (w q) C -> ... (T h w) (p q C)", p=patch, q=patch
  )


def unpatchify(tokens: Array, T: int, h: int, w: int, patch: int) -> Array:
  """[..., T h w, p p C] -> [..., T, H, W, C]: undoes `patchify`."""
  return einops.rearrange(
    tokens,
    "... (T h w) (p q C) -> ... T (h p) (w q) C",
    T=T,
    h=h,
    w=w,
    p=patch,
    q=patch,
  )


def token_pool(levels: Sequence[Array], patch: int) -> Array:
  """Patches of every level, coarse to full, each (T h w): [..., N, p p C].

  `history.Layout.source` indexes the tokens of this pool.
  """
  tokens = [patchify(x, patch) for x in levels]
  join = (
    np.concatenate if isinstance(tokens[0], np.ndarray) else jnp.concatenate
  )
  return join(tokens, axis=-2)
