"""The Flux-type diffusion transformer (miniFLUX) on packed rows.

Blocks of two streams, then blocks in which text and latent tokens share their
weights and attention and MLP stand side by side. Positions are rotary angles of
frame, y and x.

Legend: B rows, L latent tokens, M text tokens, D width, K head dim, P F parts
of width D of an MLP's hidden values, F = mlp_ratio.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.config import ConfigError, DiTConfig
from pyramid_jax.models import positions
from pyramid_jax.models.init import flattened, xavier_uniform, zeros
from pyramid_jax.models.layers import cast_once, gelu_tanh, linear
from pyramid_jax.models.pure import axes, scan_layers, stack
from pyramid_jax.models.streams import (
  QKV,
  Block,
  Shared,
  attend_streams,
  modulated,
  per_token,
)
from pyramid_jax.models.transformer import Rows, Streams, Transformer
from pyramid_jax.sharding import constrain


class SingleBlock(nnx.Module):
  """Attention and MLP beside each other, the same weights for both streams.

  The hidden values are kept in parts of the width of the heads, so that heads
  and parts are split over a mesh alike and their joint output needs no shuffle.
  """

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    self.dtype, self.attention = jnp.dtype(config.dtype), config.attention
    D, F = config.heads * config.head_dim, config.mlp_ratio
    self.modulation = linear(
      D, 3 * D, ("embed", "modulation"), init=zeros, rngs=rngs
    )
    self.qkv = QKV(config, rngs=rngs)
    make = functools.partial(nnx.Einsum, dtype=self.dtype, rngs=rngs)
    self.mlp_up = make(
      "BLD,DFK->BLFK",
      (D, F, D),
      bias_shape=(F, D),
      kernel_init=axes(flattened(xavier_uniform, 1), "embed", None, "mlp"),
      bias_init=axes(zeros, None, "mlp"),
    )
    self.out = make(
      "BLPK,PKD->BLD",
      (1 + F, D, D),
      bias_shape=(D,),
      kernel_init=axes(flattened(xavier_uniform, 2), None, "mlp", "embed"),
      bias_init=axes(zeros, "embed"),
    )

  def __call__(self, carry: Streams, row: Shared) -> Streams:
    modulation = jnp.split(self.modulation(row.condition_BSD), 3, -1)
    segments = row.segment_BM, row.segment_BL
    streams = carry[::-1]  # text first, as in attention
    parts = [[per_token(m, s) for m in modulation] for s in segments]
    hidden = [
      modulated(x, shift, scale, self.dtype)
      for x, (shift, scale, _) in zip(streams, parts, strict=True)
    ]
    qkv, mlp_up, out = (
      cast_once(layer, self.dtype)
      for layer in (self.qkv, self.mlp_up, self.out)
    )
    attended = attend_streams(
      qkv(hidden[0]), qkv(hidden[1], row.rotary), row, self.attention
    )

    def finish(x_BLD, hidden_BLD, attended_BLD, gate_BLD):
      mlp = gelu_tanh(mlp_up(hidden_BLD))
      both = jnp.concatenate([attended_BLD[:, :, None], mlp], 2)
      both = constrain(both, "batch", "tokens", None, "mlp")
      x = x_BLD.astype(jnp.float32) + gate_BLD * out(both)
      return constrain(x.astype(x_BLD.dtype), "batch", "tokens", None)

    text, latent = (
      finish(*each, gate)
      for *each, (_, _, gate) in zip(
        streams, hidden, attended, parts, strict=True
      )
    )
    return latent, text


class Flux(Transformer):
  """`config.layers` blocks of two streams, `config.single_layers` of one.

  Raises:
    ConfigError: rotary dims that do not make up a head.
  """

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    dims = config.rotary_dims
    if len(dims) != 3 or sum(dims) != config.head_dim:
      raise ConfigError(
        f"config.model.rotary_dims {dims} (frame, y, x) must be three that sum "
        f"to config.model.head_dim {config.head_dim}."
      )
    super().__init__(config, rngs=rngs)
    self.blocks = stack(
      lambda rngs: Block(config, rngs=rngs), config.layers, rngs
    )
    if config.single_layers:
      self.single_blocks = stack(
        lambda rngs: SingleBlock(config, rngs=rngs), config.single_layers, rngs
      )

  def place(self, rows: Rows) -> float:
    return 0.0

  def rotary(self, rows: Rows) -> tuple[jax.Array, jax.Array]:
    places = rows["frame"], rows["yx"][..., 0], rows["yx"][..., 1]
    parts = [
      positions.rotary(place, dim)
      for place, dim in zip(places, self.config.rotary_dims, strict=True)
    ]
    cos, sin = (jnp.concatenate(x, -1) for x in zip(*parts, strict=True))
    return cos, sin

  def run(self, carry: Streams, row: Shared) -> jax.Array:
    remat = self.config.remat
    carry = scan_layers(self.blocks, carry, row, remat=remat)
    if self.config.single_layers:
      carry = scan_layers(self.single_blocks, carry, row, remat=remat)
    return carry[0]
