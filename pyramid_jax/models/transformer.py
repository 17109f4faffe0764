"""What the diffusion transformers share: packed rows in, velocities out.

A kind of transformer (mmdit.py, flux.py) adds its positions and its blocks.
See `data/rows.py` for the rows.

Legend: B rows, L latent tokens, M text tokens, J = M + L, S segments, D width,
C values of a latent patch.
"""

import abc
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pyramid_jax.attention.ranges import key_ranges
from pyramid_jax.config import DiTConfig
from pyramid_jax.models import positions
from pyramid_jax.models.init import normal, zeros
from pyramid_jax.models.layers import linear
from pyramid_jax.models.streams import Shared, modulated, per_token
from pyramid_jax.sharding import constrain, parts

Rows = Mapping[str, jax.Array]
Streams = tuple[jax.Array, jax.Array]  # latent [B, L, D], text [B, M, D]


class Embedder(nnx.Module):
  """linear, SiLU, linear, in float32: of timestep features or pooled text."""

  def __init__(self, size: int, width: int, *, rngs: nnx.Rngs):
    make = functools.partial(linear, init=normal(0.02), rngs=rngs)
    self.up = make(size, width, (None, "embed"))
    self.down = make(width, width, ("embed", None))

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(nnx.silu(self.up(x.astype(jnp.float32))))


class Transformer(nnx.Module):
  """Velocity of every latent token of packed rows (paper Sec. 3.3)."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    self.config = config
    D = config.heads * config.head_dim
    C = config.latent_channels * config.patch**2
    make = functools.partial(linear, dtype=config.dtype, rngs=rngs)
    self.patch_in = make(C, D, (None, "embed"))
    self.timestep = Embedder(256, D, rngs=rngs)
    self.pooled = Embedder(config.pooled_dim, D, rngs=rngs)
    self.text_in = make(config.text_dim, D, (None, "embed"), init=normal(0.02))
    self.modulation = linear(
      D, 2 * D, ("embed", "modulation"), init=zeros, rngs=rngs
    )
    self.patch_out = linear(D, C, ("embed", None), init=zeros, rngs=rngs)

  @abc.abstractmethod
  def place(self, rows: Rows) -> jax.Array | float:
    """What is added to the latent tokens for their positions."""

  @abc.abstractmethod
  def rotary(self, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the latent tokens' rotary angles, [B, L, K / 2]."""

  @abc.abstractmethod
  def run(self, carry: Streams, row: Shared) -> jax.Array:
    """The blocks; returns the latent stream."""

  def __call__(
    self, x_BLC: jax.Array, rows: Rows, timestep_BS: jax.Array
  ) -> jax.Array:
    """Velocity start - end of each token's flow, float32 [B, L, C].

    Args:
      x_BLC: noisy targets and history, patch values in the order (p p c).
      rows: segment, frame, yx, text, text_segment, pooled and joint of the
        batch, see `data/rows.py`.
      timestep_BS: timestep of each segment, 0..1000.
    """
    L = x_BLC.shape[1]
    x_BLC, rows = lengthen(x_BLC, rows, parts("tokens"))
    row = self.shared(rows, timestep_BS)
    x_BLD = self.run(self.embed(x_BLC, rows), row)
    return self.patch_out(self.normed(x_BLD, row))[:, :L]

  def embed(self, x_BLC: jax.Array, rows: Rows) -> Streams:
    """Both streams before the first block."""
    dtype = jnp.dtype(self.config.dtype)
    x = (self.patch_in(x_BLC.astype(dtype)) + self.place(rows)).astype(dtype)
    text = self.text_in(rows["text"].astype(dtype))
    return tuple(constrain(a, "batch", "tokens", None) for a in (x, text))

  def normed(self, x_BLD: jax.Array, row: Shared) -> jax.Array:
    """The latent stream after the last norm, float32."""
    scale, shift = jnp.split(self.modulation(row.condition_BSD), 2, -1)
    scale, shift = (per_token(a, row.segment_BL) for a in (scale, shift))
    return modulated(x_BLD, shift, scale, jnp.float32)

  def condition(self, rows: Rows, timestep_BS: jax.Array) -> jax.Array:
    """What a segment is told, [B, S, D] float32."""
    return self.timestep(
      positions.timestep_features(timestep_BS)
    ) + self.pooled(rows["pooled"])

  def shared(self, rows: Rows, timestep_BS: jax.Array) -> Shared:
    """What every block needs of the rows."""
    order = rows["joint"]
    inverse = jnp.argsort(order, axis=1)
    segment = jnp.concatenate([rows["text_segment"], rows["segment"]], 1)
    frame = jnp.concatenate(
      [jnp.zeros_like(rows["text_segment"]), rows["frame"]], 1
    )
    k_start, k_end = key_ranges(
      jnp.take_along_axis(segment, order, 1),
      jnp.take_along_axis(frame, order, 1),
      causal=self.config.causal,
    )
    return Shared(
      nnx.silu(self.condition(rows, timestep_BS)),
      rows["segment"],
      rows["text_segment"],
      self.rotary(rows),
      order,
      inverse,
      k_start,
      k_end,
    )


def lengthen(
  x_BLC: jax.Array, rows: Rows, devices: int
) -> tuple[jax.Array, Rows]:
  """Padding behind text and latent tokens, so that `devices` divide each.

  (Left to itself the compiler would pad, and then adds the padding's gradients
  to those of the first segment.)
  """
  L, M = x_BLC.shape[1], rows["text"].shape[1]
  more_L, more_M = -L % devices, -M % devices
  if not (more_L or more_M):
    return x_BLC, rows

  def longer(x, by):
    return jnp.pad(x, [(0, 0), (0, by)] + [(0, 0)] * (x.ndim - 2))

  latent = {k: longer(rows[k], more_L) for k in ("segment", "frame", "yx")}
  text = {k: longer(rows[k], more_M) for k in ("text", "text_segment")}
  order = jnp.where(rows["joint"] < M, rows["joint"], rows["joint"] + more_M)
  last = M + more_M + L
  behind = np.r_[M : M + more_M, last : last + more_L].astype(order.dtype)
  behind = jnp.broadcast_to(behind, (len(order), len(behind)))
  joint = jnp.concatenate([order, behind], 1)
  return longer(x_BLC, more_L), {**rows, **latent, **text, "joint": joint}
