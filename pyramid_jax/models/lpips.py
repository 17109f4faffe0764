"""LPIPS: how different two images look (arXiv:1801.03924).

The squared difference of VGG16's features (arXiv:1409.1556), each feature
vector scaled to unit length, weighted by channel and averaged over space.

Legend: N images, H W space, C channels; pixels in [-1, 1].
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.config import LPIPSConfig
from pyramid_jax.models.init import fan_in_normal, ones, zeros
from pyramid_jax.models.pure import axes

# What the features were trained on, in units of pixels in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG16, before each halving of the size


class LPIPS(nnx.Module):
  """The distance of images, pair by pair."""

  def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
    levels, size_in = [], 3
    for size, count in zip(config.channels, CONVOLUTIONS, strict=True):
      sizes = [size_in, *[size] * count]
      convolutions = [
        nnx.Conv(
          sizes[i],
          size,
          (3, 3),
          dtype=jnp.dtype(config.dtype),
          kernel_init=axes(
            fan_in_normal, "kernel", "kernel", "channels_in", "channels"
          ),
          bias_init=axes(zeros, "channels"),
          rngs=rngs,
        )
        for i in range(count)
      ]
      levels.append(nnx.List(convolutions))
      size_in = size
    self.levels = nnx.List(levels)
    self.weights = nnx.List(
      nnx.Param(axes(ones, "channels")(rngs.params(), (size,)))
      for size in config.channels
    )

  def __call__(self, x_NHWC: jax.Array, y_NHWC: jax.Array) -> jax.Array:
    """Distances [N], float32.

    Height and width are at least 16, so that the last features have a place.
    """
    both = jnp.concatenate([x_NHWC, y_NHWC])
    distance = jnp.zeros(len(x_NHWC))
    for features, weight in zip(self.features(both), self.weights, strict=True):
      x, y = jnp.split(_unit(features.astype(jnp.float32)), 2)
      distance += (jnp.square(x - y) @ weight[...]).mean((1, 2))
    return distance

  def features(self, x_NHWC: jax.Array) -> Iterator[jax.Array]:
    """What each level gives, after its last ReLU, fine to coarse."""
    x = (x_NHWC - jnp.array(SHIFT)) / jnp.array(SCALE)
    for i, level in enumerate(self.levels):
      if i:
        x = nnx.max_pool(x, (2, 2), (2, 2))
      x = functools.reduce(lambda x, conv: nnx.relu(conv(x)), level, x)
      yield x


def _unit(x_NHWC: jax.Array) -> jax.Array:
  """Feature vectors of length 1; a vector of zeros stays, without gradient."""
  square = jnp.square(x_NHWC).sum(-1, keepdims=True)
  dead = square == 0  # where a square root has no gradient
  length = jnp.sqrt(jnp.where(dead, 1.0, square))
  return x_NHWC / (length + 1e-10)
