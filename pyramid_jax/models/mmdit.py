"""The SD3-type multimodal diffusion transformer on packed rows.

Text and latent tokens are two streams with their own weights that meet in
attention. Everything a segment is told (timestep, pooled text) reaches its
tokens as adaLN modulation. See design of rows in `data/rows.py`.

Legend: B rows, L latent tokens, M text tokens, J = M + L, S segments, D width,
N heads, K head dim, C values of a latent patch.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from pyramid_jax.attention.attend import attend_joint
from pyramid_jax.attention.ranges import key_ranges
from pyramid_jax.config import MMDiTConfig
from pyramid_jax.models import positions
from pyramid_jax.models.init import normal, zeros
from pyramid_jax.models.layers import (
  Scale,
  gelu_tanh,
  layer_norm,
  linear,
  rms_norm,
)
from pyramid_jax.models.pure import scan_layers, stack
from pyramid_jax.sharding import RULES, constrain

Rows = Mapping[str, jax.Array]


class Shared(NamedTuple):
  """What every block needs of a row; computed once a call."""

  condition_BSD: jax.Array
  segment_BL: jax.Array
  segment_BM: jax.Array
  rotary: tuple[jax.Array, jax.Array]
  order_BJ: jax.Array
  inverse_BJ: jax.Array
  k_start_BJ: jax.Array
  k_end_BJ: jax.Array


def per_token(x_BSD: jax.Array, segment_BL: jax.Array) -> jax.Array:
  """Each token's own row of a per-segment array; padding takes the first."""
  index = jnp.maximum(segment_BL - 1, 0)[..., None]
  return jnp.take_along_axis(x_BSD, index, axis=1)


class Embedder(nnx.Module):
  """linear, SiLU, linear, in float32: of timestep features or pooled text."""

  def __init__(self, size: int, width: int, *, rngs: nnx.Rngs):
    make = functools.partial(linear, init=normal(0.02), rngs=rngs)
    self.up = make(size, width, (None, "embed"))
    self.down = make(width, width, ("embed", None))

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down(nnx.silu(self.up(x.astype(jnp.float32))))


class Stream(nnx.Module):
  """One stream's weights in a block.

  `closing` is the text stream of the last block: it only feeds attention.
  """

  def __init__(self, config: MMDiTConfig, *, closing: bool, rngs: nnx.Rngs):
    self.heads, self.dtype = config.heads, jnp.dtype(config.dtype)
    self.closing = closing
    D, F = config.heads * config.head_dim, config.mlp_ratio
    make = functools.partial(linear, dtype=config.dtype, rngs=rngs)
    parts = 2 if closing else 6
    self.modulation = linear(
      D, parts * D, ("embed", "modulation"), init=zeros, rngs=rngs
    )
    self.query = make(D, D, ("embed", "heads"))
    self.key = make(D, D, ("embed", "heads"))
    self.value = make(D, D, ("embed", "heads"))
    self.query_norm = Scale(config.head_dim, "head", bias=False, rngs=rngs)
    self.key_norm = Scale(config.head_dim, "head", bias=False, rngs=rngs)
    if not closing:
      self.out = make(D, D, ("heads", "embed"))
      self.mlp_up = make(D, F * D, ("embed", "mlp"))
      self.mlp_down = make(F * D, D, ("mlp", "embed"))

  def modulate(self, condition_BSD: jax.Array) -> list[jax.Array]:
    """Per segment, float32: shift, scale, gate of attention, then of MLP.

    The closing stream has scale and shift of attention only, in this order
    in the released weights.
    """
    parts = jnp.split(
      self.modulation(condition_BSD), 2 if self.closing else 6, -1
    )
    return [parts[1], parts[0]] if self.closing else parts

  def project(self, x_BLD: jax.Array, shift, scale) -> tuple[jax.Array, ...]:
    """Query, key (normalised, float32) and value of the modulated tokens."""
    x = (layer_norm(x_BLD) * (1 + scale) + shift).astype(self.dtype)
    split = functools.partial(rearrange, pattern="B L (N K) -> B L N K")
    q, k, v = (
      split(f(x), N=self.heads) for f in (self.query, self.key, self.value)
    )
    return (
      self.query_norm(rms_norm(q, 1e-5)),
      self.key_norm(rms_norm(k, 1e-5)),
      v,
    )

  def finish(self, x_BLD, attended_BLNK, gate, shift, scale, gate_mlp):
    """Adds the attention's result, then the MLP's, each through its gate."""
    out = self.out(rearrange(attended_BLNK, "B L N K -> B L (N K)"))
    x = x_BLD.astype(jnp.float32) + gate * out
    h = (layer_norm(x) * (1 + scale) + shift).astype(self.dtype)
    h = constrain(gelu_tanh(self.mlp_up(h)), "batch", "tokens", "mlp")
    x = x + gate_mlp * self.mlp_down(h)
    return constrain(x.astype(x_BLD.dtype), "batch", "tokens", None)


class Block(nnx.Module):
  """Joint attention of both streams, then an MLP for each."""

  def __init__(self, config: MMDiTConfig, *, closing=False, rngs: nnx.Rngs):
    self.latent = Stream(config, closing=False, rngs=rngs)
    self.text = Stream(config, closing=closing, rngs=rngs)

  def __call__(self, carry, row: Shared):
    x_BLD, text_BMD = carry
    here = functools.partial(per_token, segment_BL=row.segment_BL)
    there = functools.partial(per_token, segment_BL=row.segment_BM)
    mod = self.latent.modulate(row.condition_BSD)
    mod_text = self.text.modulate(row.condition_BSD)
    q, k, v = self.latent.project(x_BLD, here(mod[0]), here(mod[1]))
    q, k = (positions.rotate(a, *row.rotary) for a in (q, k))
    # text stands at frame 0, where the rotation is the identity
    q_text, k_text, v_text = self.text.project(
      text_BMD, there(mod_text[0]), there(mod_text[1])
    )
    attended_text, attended = attend_joint(
      (q_text.astype(v.dtype), k_text.astype(v.dtype), v_text),
      (q.astype(v.dtype), k.astype(v.dtype), v),
      row.order_BJ,
      row.inverse_BJ,
      row.k_start_BJ,
      row.k_end_BJ,
      batch_axes=RULES["batch"],
      head_axes=(RULES["heads"],),
    )
    x_BLD = self.latent.finish(x_BLD, attended, *map(here, mod[2:]))
    if not self.text.closing:
      text_BMD = self.text.finish(
        text_BMD, attended_text, *map(there, mod_text[2:])
      )
    return x_BLD, text_BMD


class MMDiT(nnx.Module):
  """Velocity of every latent token of packed rows (paper Sec. 3.3)."""

  def __init__(self, config: MMDiTConfig, *, rngs: nnx.Rngs):
    self.config = config
    D = config.heads * config.head_dim
    C = config.latent_channels * config.patch**2
    self.patch_in = linear(C, D, (None, "embed"), dtype=config.dtype, rngs=rngs)
    self.timestep = Embedder(256, D, rngs=rngs)
    self.pooled = Embedder(config.pooled_dim, D, rngs=rngs)
    self.text_in = linear(
      config.text_dim,
      D,
      (None, "embed"),
      dtype=config.dtype,
      init=normal(0.02),
      rngs=rngs,
    )
    if config.layers > 1:
      self.blocks = stack(
        lambda rngs: Block(config, rngs=rngs), config.layers - 1, rngs
      )
    self.last_block = Block(config, closing=True, rngs=rngs)
    self.modulation = linear(
      D, 2 * D, ("embed", "modulation"), init=zeros, rngs=rngs
    )
    self.patch_out = linear(D, C, ("embed", None), init=zeros, rngs=rngs)

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
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    row = self._shared(rows, timestep_BS)
    table = positions.sincos_table(
      config.table_size,
      config.heads * config.head_dim // 2,
      config.table_base,
    )
    place = positions.sincos_2d(rows["yx"], jnp.asarray(table))
    x = (self.patch_in(x_BLC.astype(dtype)) + place).astype(dtype)
    x = constrain(x, "batch", "tokens", None)
    text = self.text_in(rows["text"].astype(dtype))
    carry = (x, constrain(text, "batch", "tokens", None))
    if config.layers > 1:
      carry = scan_layers(self.blocks, carry, row, remat=config.remat)
    x, _ = self.last_block(carry, row)
    scale, shift = jnp.split(self.modulation(row.condition_BSD), 2, -1)
    scale, shift = (per_token(a, rows["segment"]) for a in (scale, shift))
    return self.patch_out(layer_norm(x) * (1 + scale) + shift)

  def _shared(self, rows: Rows, timestep_BS: jax.Array) -> Shared:
    condition_BSD = nnx.silu(
      self.timestep(positions.timestep_features(timestep_BS))
      + self.pooled(rows["pooled"])
    )
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
      condition_BSD,
      rows["segment"],
      rows["text_segment"],
      positions.rotary(rows["frame"], self.config.head_dim),
      order,
      inverse,
      k_start,
      k_end,
    )
