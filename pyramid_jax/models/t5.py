"""The T5 v1.1 encoder: a prompt as a sequence of features (arXiv:1910.10683).

Pre-norm blocks without biases; attention scores are not scaled, the distance
between two tokens enters as a learned bias that every layer shares; the
feed-forward part is gated (arXiv:2002.05202). The residual stream stays
float32: in the largest models it outgrows what bfloat16 resolves.

Legend: B prompts, M tokens, E width, N heads, K head dim, F hidden.
"""

import functools

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pyramid_jax.config import T5Config
from pyramid_jax.models import init, layers
from pyramid_jax.models.pure import axes, scan_layers, stack
from pyramid_jax.sharding import constrain


def relative_buckets(
  tokens: int, buckets: int, max_distance: int
) -> np.ndarray:
  """Which learned bias each (query, key) pair takes, [M, M] of 0..buckets-1.

  Half of the buckets are for later keys. Of each half the first half is one
  bucket per distance, the rest grow logarithmically up to `max_distance`.
  Float32 like the released code, so that a bucket never begins one off.
  """
  position = np.arange(tokens)
  offset = position[None, :] - position[:, None]
  half = buckets // 2
  exact = half // 2
  distance = np.abs(offset)
  steps = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
  steps = steps / np.float32(np.log(max_distance / exact)) * (half - exact)
  far = np.minimum(exact + steps.astype(np.int32), half - 1)
  return half * (offset > 0) + np.where(distance < exact, distance, far)


class Attention(nnx.Module):
  """Self-attention whose scores get a bias instead of a scale."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.head_dim = config.head_dim
    inner = config.heads * config.head_dim
    linear = functools.partial(
      layers.linear, dtype=config.dtype, bias=False, rngs=rngs
    )
    self.q = linear(config.width, inner, ("embed", "heads"))
    self.k = linear(config.width, inner, ("embed", "heads"))
    self.v = linear(config.width, inner, ("embed", "heads"))
    self.o = linear(inner, config.width, ("heads", "embed"))

  def __call__(
    self, x_BME: jax.Array, bias_NMM: jax.Array, mask_B11M: jax.Array
  ) -> jax.Array:
    split = functools.partial(
      einops.rearrange, pattern="b m (n k) -> b m n k", k=self.head_dim
    )
    out_BMNK = jax.nn.dot_product_attention(
      *(split(f(x_BME)) for f in (self.q, self.k, self.v)),
      bias=bias_NMM[None],
      mask=mask_B11M,
      scale=1.0,
    )
    return self.o(einops.rearrange(out_BMNK, "b m n k -> b m (n k)"))


class FeedForward(nnx.Module):
  """gelu(x W_gate) * (x W_up), projected back."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    linear = functools.partial(
      layers.linear, dtype=config.dtype, bias=False, rngs=rngs
    )
    self.gate = linear(config.width, config.hidden, ("embed", "mlp"))
    self.up = linear(config.width, config.hidden, ("embed", "mlp"))
    self.down = linear(config.hidden, config.width, ("mlp", "embed"))

  def __call__(self, x_BME: jax.Array) -> jax.Array:
    return self.down(layers.gelu_tanh(self.gate(x_BME)) * self.up(x_BME))


class Block(nnx.Module):
  """Attention, then the feed-forward part, each behind an RMS norm."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.epsilon = config.epsilon
    scale = functools.partial(
      layers.Scale, config.width, "embed", bias=False, rngs=rngs
    )
    self.attention_norm, self.attention = scale(), Attention(config, rngs=rngs)
    self.mlp_norm, self.mlp = scale(), FeedForward(config, rngs=rngs)

  def __call__(
    self, x_BME: jax.Array, bias_NMM: jax.Array, mask_B11M: jax.Array
  ) -> jax.Array:
    y_BME = self.attention_norm(layers.rms_norm(x_BME, self.epsilon))
    y_BME = self.attention(y_BME, bias_NMM, mask_B11M)
    x_BME = constrain(x_BME + y_BME, "batch", None, None)
    y_BME = self.mlp(self.mlp_norm(layers.rms_norm(x_BME, self.epsilon)))
    return constrain(x_BME + y_BME, "batch", None, None)


class T5(nnx.Module):
  """The encoder half of T5 v1.1."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.config = config
    self.embed = nnx.Embed(
      config.vocabulary,
      config.width,
      # Whole rows: a lookup in a table split both ways gathers all of it.
      embedding_init=axes(init.normal(1.0), "vocabulary", None),
      rngs=rngs,
    )
    self.distance_bias = nnx.Param(
      axes(init.normal(0.1), None, "heads")(
        rngs.params(), (config.buckets, config.heads)
      )
    )
    self.blocks = stack(
      lambda rngs: Block(config, rngs=rngs), config.layers, rngs
    )
    self.norm = layers.Scale(config.width, "embed", bias=False, rngs=rngs)

  def __call__(self, ids_BM: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Features [B, M, E] in float32 of token ids; padding is never a key.

    Features at padded positions are finite and mean nothing.
    """
    x_BME = self.embed(ids_BM).astype(jnp.float32)
    x_BME = scan_layers(
      self.blocks,
      constrain(x_BME, "batch", None, None),
      self.bias(ids_BM.shape[1]),
      (mask_BM > 0)[:, None, None, :],
    )
    x_BME = self.norm(layers.rms_norm(x_BME, self.config.epsilon))
    return x_BME.astype(jnp.float32)

  def bias(self, tokens: int) -> jax.Array:
    """What the distance of two tokens adds to their score, [N, M, M]."""
    buckets_MM = relative_buckets(
      tokens, self.config.buckets, self.config.max_distance
    )
    bias_MMN = self.distance_bias[...][buckets_MM].astype(jnp.float32)
    return einops.rearrange(bias_MMN, "q k n -> n q k")
