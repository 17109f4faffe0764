"""Positions: sin-cos tables, rotary angles, timestep features.

Legend: B rows, L tokens, D width, K head dim, S segments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.lru_cache
def sincos_table(size: int, dim: int, base: int) -> np.ndarray:
  """Sin-cos features of `size` places on one axis, float32 [size, dim].

  Place i stands for i / (size / base), in the float32 and float64 steps of the
  released table, which it equals bit for bit.
  """
  place = np.arange(size, dtype=np.float32) / (size / base)
  frequency = 1.0 / 10000 ** (np.arange(dim // 2) / (dim / 2.0))
  angle = np.einsum("m,d->md", place, frequency)
  return np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)


def sincos_2d(yx_BL2: jax.Array, table: jax.Array) -> jax.Array:
  """Features [B, L, D] of places in the plane: those of x, then those of y.

  A fractional place takes the linear mean of the two table entries beside it,
  which is what resizing the table bilinearly gives; angles are never
  interpolated. `table` is [size, D / 2].
  """
  low = jnp.clip(jnp.floor(yx_BL2), 0, table.shape[0] - 1)
  part = (yx_BL2 - low)[..., None]
  low = low.astype(jnp.int32)
  high = jnp.minimum(low + 1, table.shape[0] - 1)
  features = (1 - part) * table[low] + part * table[high]  # [B, L, 2, D / 2]
  return jnp.concatenate([features[..., 1, :], features[..., 0, :]], -1)


def rotary(place: jax.Array, dim: int) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine [..., dim / 2] of rotary angles, base 10000."""
  frequency = 1.0 / 10000 ** (np.arange(0, dim, 2) / dim)
  angle = place.astype(jnp.float32)[..., None] * frequency.astype(np.float32)
  return jnp.cos(angle), jnp.sin(angle)


def rotate(
  x_BLNK: jax.Array, cos_BLk: jax.Array, sin_BLk: jax.Array
) -> jax.Array:
  """Turns the pairs (0, 1), (2, 3), ... of every head; float32 in and out."""
  cos, sin = cos_BLk[:, :, None], sin_BLk[:, :, None]
  even, odd = x_BLNK[..., 0::2], x_BLNK[..., 1::2]
  out = jnp.stack([cos * even - sin * odd, sin * even + cos * odd], -1)
  return out.reshape(x_BLNK.shape)


def timestep_features(timestep: jax.Array, dim: int = 256) -> jax.Array:
  """Cosines, then sines [..., dim] of a timestep in 0..1000, float32."""
  half = dim // 2
  frequency = np.exp(-np.log(10000) * np.arange(half, dtype=np.float32) / half)
  angle = timestep.astype(jnp.float32)[..., None] * frequency.astype(np.float32)
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
