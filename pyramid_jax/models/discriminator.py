"""Patch discriminators of images and of clips (arXiv:1611.07004).

Convolutions of 4 taps that halve the size, with instance norm between them;
every logit judges the patch that it sees.

Legend: B clips, T frames, H W space, C channels, F width.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from pyramid_jax.config import AdversaryConfig, ConfigError
from pyramid_jax.models.init import normal, zeros
from pyramid_jax.models.pure import axes

WIDEST = 8  # times the first width
EPSILON = 1e-5


class Discriminator(nnx.Module):
  """Logits of patches: above 0 taken for real.

  Of kind "image" it judges every frame alone, of kind "clip" also motion.

  Raises:
    ConfigError: the config asks for none.
  """

  def __init__(self, config: AdversaryConfig, *, rngs: nnx.Rngs):
    if config.kind == "none":
      raise ConfigError('vae_loss.adversary.kind is "none": nothing to build.')
    self.kind = config.kind
    dims = 2 if config.kind == "image" else 3
    widths = [
      config.width * min(2**i, WIDEST) for i in range(config.layers + 1)
    ]
    # space is halved by all but the last two, time by the first alone
    strides = [(2,) * dims]
    strides += [(1, 2, 2)[-dims:]] * (config.layers - 1)
    strides += [(1,) * dims] * 2
    sizes = [3, *widths, 1]
    self.layers = nnx.List(
      nnx.Conv(
        size_in,
        size,
        (4,) * dims,
        strides=stride,
        padding=1,
        # logits are not rounded before they are compared with 1
        dtype=jnp.float32 if size == 1 else jnp.dtype(config.dtype),
        kernel_init=axes(
          normal(0.02), *["kernel"] * dims, "channels_in", "channels"
        ),
        bias_init=axes(zeros, "channels"),
        rngs=rngs,
      )
      for size_in, size, stride in zip(
        sizes[:-1], sizes[1:], strides, strict=True
      )
    )

  def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
    """Logits, float32: [B T, h, w, 1] of images, [B, t, h, w, 1] of clips.

    With 4 layers height and width are at least 32; of clips T at least 4.
    """
    x = x_BTHWC
    if self.kind == "image":
      x = rearrange(x, "b t h w c -> (b t) h w c")
    first, *between, last = self.layers
    x = nnx.leaky_relu(first(x), 0.2)
    for layer in between:
      x = nnx.leaky_relu(_instance_norm(layer(x)), 0.2)
    return last(x)


def _instance_norm(x: jax.Array) -> jax.Array:
  """Zero mean, unit variance of each channel of each input; float32 inside."""
  axes = tuple(range(1, x.ndim - 1))
  y = x.astype(jnp.float32)
  y = y - y.mean(axes, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.square(y).mean(axes, keepdims=True) + EPSILON)
  return y.astype(x.dtype)
