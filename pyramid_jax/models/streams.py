"""Text and latent tokens as two streams that meet in attention.

Everything a segment is told (timestep, pooled text) reaches its tokens as adaLN
modulation.

Legend: B rows, L latent tokens, M text tokens, J = M + L, S segments, D width,
N heads, K head dim.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from pyramid_jax.attention.attend import attend_joint, platform
from pyramid_jax.config import DiTConfig
from pyramid_jax.models import positions
from pyramid_jax.models.init import zeros
from pyramid_jax.models.layers import (
  Scale,
  gelu_tanh,
  layer_norm,
  linear,
  rms_norm,
)
from pyramid_jax.sharding import RULES, constrain

QK_EPSILON = {"mmdit": 1e-5, "flux": 1e-6}  # of the released models


class Shared(NamedTuple):
  """What every block needs of a row; computed once a call."""

  condition_BSD: jax.Array
  segment_BL: jax.Array
  segment_BM: jax.Array
  rotary: tuple[jax.Array, jax.Array]  # of latent tokens
  order_BJ: jax.Array
  inverse_BJ: jax.Array
  k_start_BJ: jax.Array
  k_end_BJ: jax.Array


def per_token(x_BSD: jax.Array, segment_BL: jax.Array) -> jax.Array:
  """Each token's own row of a per-segment array; padding takes the first.

  The same values on every platform, in the way that moves fewest bytes there
  (benchmarks/compile_modulation.py).
  """
  take = multiplied if platform() == "tpu" else gathered
  return take(x_BSD, jnp.maximum(segment_BL - 1, 0))


def gathered(x_BSD: jax.Array, index_BL: jax.Array) -> jax.Array:
  """Rows by their index."""
  return jnp.take_along_axis(x_BSD, index_BL[..., None], axis=1)


def multiplied(x_BSD: jax.Array, index_BL: jax.Array) -> jax.Array:
  """Rows by their index, as a product with ones and zeros: exact."""
  picks_BLS = jax.nn.one_hot(index_BL, x_BSD.shape[1], dtype=x_BSD.dtype)
  return jnp.einsum("BLS,BSD->BLD", picks_BLS, x_BSD, precision="highest")


class QKV(nnx.Module):
  """Query, key and value of a head each; query and key RMS-normalised."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    self.heads, self.epsilon = config.heads, QK_EPSILON[config.kind]
    D = config.heads * config.head_dim
    make = functools.partial(
      linear, D, D, ("embed", "heads"), dtype=config.dtype, rngs=rngs
    )
    self.query, self.key, self.value = make(), make(), make()
    self.query_norm = Scale(config.head_dim, "head", bias=False, rngs=rngs)
    self.key_norm = Scale(config.head_dim, "head", bias=False, rngs=rngs)

  def __call__(
    self, x_BLD: jax.Array, rotary: tuple[jax.Array, jax.Array] | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B, L, N, K] each, in the dtype of x; text needs no rotation.

    It stands at place 0, where the rotation is the identity.
    """
    split = functools.partial(rearrange, pattern="B L (N K) -> B L N K")
    q, k, v = (
      split(f(x_BLD), N=self.heads) for f in (self.query, self.key, self.value)
    )
    q = self.query_norm(rms_norm(q, self.epsilon))
    k = self.key_norm(rms_norm(k, self.epsilon))
    if rotary is not None:
      q, k = (positions.rotate(a, *rotary) for a in (q, k))
    return q.astype(v.dtype), k.astype(v.dtype), v


def modulated(x_BLD, shift, scale, dtype) -> jax.Array:
  """The layer-normalised tokens, scaled and shifted: adaLN."""
  return (layer_norm(x_BLD) * (1 + scale) + shift).astype(dtype)


def attend_streams(text: tuple, latent: tuple, row: Shared, how: str):
  """Attention of both streams' q, k, v together; results [B, M or L, N K]."""
  out = attend_joint(
    text,
    latent,
    row.order_BJ,
    row.inverse_BJ,
    row.k_start_BJ,
    row.k_end_BJ,
    batch_axes=RULES["batch"],
    head_axes=(RULES["heads"],),
    token_axis=RULES["tokens"],
    implementation=how,
  )
  return tuple(rearrange(x, "B L N K -> B L (N K)") for x in out)


class Stream(nnx.Module):
  """One stream's weights in a block.

  `closing` is the text stream of the last block of an MM-DiT: it only feeds
  attention.
  """

  def __init__(self, config: DiTConfig, *, closing: bool, rngs: nnx.Rngs):
    self.dtype, self.closing = jnp.dtype(config.dtype), closing
    D, F = config.heads * config.head_dim, config.mlp_ratio
    make = functools.partial(linear, dtype=config.dtype, rngs=rngs)
    parts = 2 if closing else 6
    self.modulation = linear(
      D, parts * D, ("embed", "modulation"), init=zeros, rngs=rngs
    )
    self.qkv = QKV(config, rngs=rngs)
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

  def finish(self, x_BLD, attended_BLD, gate, shift, scale, gate_mlp):
    """Adds the attention's result, then the MLP's, each through its gate."""
    x = x_BLD.astype(jnp.float32) + gate * self.out(attended_BLD)
    h = modulated(x, shift, scale, self.dtype)
    h = constrain(gelu_tanh(self.mlp_up(h)), "batch", "tokens", "mlp")
    x = x + gate_mlp * self.mlp_down(h)
    return constrain(x.astype(x_BLD.dtype), "batch", "tokens", None)


class Block(nnx.Module):
  """Joint attention of both streams, then an MLP for each."""

  def __init__(self, config: DiTConfig, *, closing=False, rngs: nnx.Rngs):
    self.attention = config.attention
    self.latent = Stream(config, closing=False, rngs=rngs)
    self.text = Stream(config, closing=closing, rngs=rngs)

  def __call__(self, carry, row: Shared):
    x_BLD, text_BMD = carry
    here = functools.partial(per_token, segment_BL=row.segment_BL)
    there = functools.partial(per_token, segment_BL=row.segment_BM)
    mod = self.latent.modulate(row.condition_BSD)
    mod_text = self.text.modulate(row.condition_BSD)
    h = modulated(x_BLD, here(mod[0]), here(mod[1]), self.latent.dtype)
    h_text = modulated(
      text_BMD, there(mod_text[0]), there(mod_text[1]), self.text.dtype
    )
    attended_text, attended = attend_streams(
      self.text.qkv(h_text),
      self.latent.qkv(h, row.rotary),
      row,
      self.attention,
    )
    x_BLD = self.latent.finish(x_BLD, attended, *map(here, mod[2:]))
    if not self.text.closing:
      text_BMD = self.text.finish(
        text_BMD, attended_text, *map(there, mod_text[2:])
      )
    return x_BLD, text_BMD
