"""The CLIP text encoder: a prompt as one vector (arXiv:2103.00020).

Pre-norm blocks with causal attention and learned positions; the vector is the
output at the end token, the only one that has seen the whole prompt.

Legend: B prompts, Q tokens, E width, N heads, K head dim, P pooled width.
"""

import functools

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.config import CLIPConfig, ConfigError
from pyramid_jax.models import init, layers
from pyramid_jax.models.pure import axes, scan_layers, stack
from pyramid_jax.sharding import constrain

ACTIVATIONS = {"quick_gelu": layers.quick_gelu, "gelu": layers.gelu}

# Released configs carry this end token although their tokenizers end with the
# last word of the vocabulary; it stands for "the largest id of the prompt".
LEGACY_END_TOKEN = 2


class Attention(nnx.Module):
  """Causal self-attention."""

  def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
    self.heads = config.heads
    linear = functools.partial(
      layers.linear, config.width, config.width, dtype=config.dtype, rngs=rngs
    )
    self.q, self.k, self.v = (linear(("embed", "heads")) for _ in range(3))
    self.o = linear(("heads", "embed"))

  def __call__(self, x_BQE: jax.Array) -> jax.Array:
    split = functools.partial(
      einops.rearrange, pattern="b q (n k) -> b q n k", n=self.heads
    )
    out_BQNK = jax.nn.dot_product_attention(
      *(split(f(x_BQE)) for f in (self.q, self.k, self.v)), is_causal=True
    )
    return self.o(einops.rearrange(out_BQNK, "b q n k -> b q (n k)"))


class Block(nnx.Module):
  """Attention, then two dense layers, each behind a layer norm."""

  def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
    self.epsilon = config.epsilon
    self.activation = config.activation
    scale = functools.partial(
      layers.Scale, config.width, "embed", bias=True, rngs=rngs
    )
    linear = functools.partial(layers.linear, dtype=config.dtype, rngs=rngs)
    self.attention_norm, self.attention = scale(), Attention(config, rngs=rngs)
    self.mlp_norm = scale()
    self.up = linear(config.width, config.hidden, ("embed", "mlp"))
    self.down = linear(config.hidden, config.width, ("mlp", "embed"))

  def __call__(self, x_BQE: jax.Array) -> jax.Array:
    y_BQE = self.attention_norm(layers.layer_norm(x_BQE, self.epsilon))
    x_BQE = constrain(x_BQE + self.attention(y_BQE), "batch", None, None)
    y_BQE = self.mlp_norm(layers.layer_norm(x_BQE, self.epsilon))
    y_BQE = self.down(ACTIVATIONS[self.activation](self.up(y_BQE)))
    return constrain(x_BQE + y_BQE, "batch", None, None)


class CLIPText(nnx.Module):
  """The text half of CLIP; without a projection if `config.projection` is 0.

  Raises:
    ConfigError: an unknown activation.
  """

  def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
    if config.activation not in ACTIVATIONS:
      raise ConfigError(
        f"CLIP activation {config.activation!r} is unknown; use one of "
        f"{', '.join(ACTIVATIONS)}."
      )
    self.config = config
    self.embed = nnx.Embed(
      config.vocabulary,
      config.width,
      embedding_init=axes(init.normal(0.02), "vocabulary", None),
      rngs=rngs,
    )
    self.positions = nnx.Param(
      axes(init.normal(0.01), None, None)(
        rngs.params(), (config.positions, config.width)
      )
    )
    self.blocks = stack(
      lambda rngs: Block(config, rngs=rngs), config.layers, rngs
    )
    self.norm = layers.Scale(config.width, "embed", bias=True, rngs=rngs)
    self.projection = (
      layers.linear(
        config.width,
        config.projection,
        ("embed", None),
        dtype=config.dtype,
        bias=False,
        rngs=rngs,
      )
      if config.projection
      else None
    )

  def __call__(self, ids_BQ: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features [B, Q, E] and pooled [B, P], float32, of token ids.

    P is the projection's width, or E without one.
    """
    config = self.config
    x_BQE = self.embed(ids_BQ) + self.positions[: ids_BQ.shape[1]]
    x_BQE = constrain(x_BQE.astype(jnp.float32), "batch", None, None)
    x_BQE = scan_layers(self.blocks, x_BQE)
    x_BQE = self.norm(layers.layer_norm(x_BQE, config.epsilon))
    x_BQE = x_BQE.astype(jnp.float32)
    pooled_BE = x_BQE[jnp.arange(len(ids_BQ)), self.end(ids_BQ)]
    if self.projection is None:
      return x_BQE, pooled_BE
    return x_BQE, self.projection(pooled_BE).astype(jnp.float32)

  def end(self, ids_BQ: jax.Array) -> jax.Array:
    """Position [B] of the first end token (arg max takes the first)."""
    if self.config.end_token == LEGACY_END_TOKEN:
      return jnp.argmax(ids_BQ, axis=1)
    return jnp.argmax(ids_BQ == self.config.end_token, axis=1)
