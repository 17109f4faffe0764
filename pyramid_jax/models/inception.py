"""Inception-v3 (arXiv:1512.00567) as FID uses it: images to 2048 features.

It differs from the published network in its pooling: averages leave out the
padding, and the last block takes the maximum. Attributes have the names of the
released weights.

Legend: N images, H W space, C channels; pixels in [-1, 1].
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.models.init import fan_in_normal, ones, zeros
from pyramid_jax.models.pure import axes

FEATURES = 2048
SIDE = 299  # pixels of the images that it was trained on
EPSILON = 1e-3  # of the batch norms


class Convolution(nnx.Module):
  """Convolution without bias, batch norm with stored statistics, ReLU."""

  def __init__(
    self,
    size_in: int,
    size: int,
    kernel: tuple[int, int] = (1, 1),
    stride: int = 1,
    padding: str = "SAME",
    *,
    rngs: nnx.Rngs,
  ):
    self.conv = nnx.Conv(
      size_in,
      size,
      kernel,
      stride,
      padding=padding,
      use_bias=False,
      kernel_init=axes(
        fan_in_normal, "kernel", "kernel", "channels_in", "channels"
      ),
      rngs=rngs,
    )
    channel = lambda init: nnx.Param(
      axes(init, "channels")(rngs.params(), (size,))
    )
    self.scale, self.bias = channel(ones), channel(zeros)
    self.mean, self.variance = channel(zeros), channel(ones)

  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """Its features."""
    slope = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
    x = self.conv(x_NHWC) - self.mean[...]
    return nnx.relu(x * slope + self.bias[...])


def chain(x: jax.Array, *layers: Callable) -> jax.Array:
  """One layer after the other."""
  return functools.reduce(lambda x, layer: layer(x), layers, x)


def average(x_NHWC: jax.Array) -> jax.Array:
  """Of 3 x 3 neighbours; at the edge, of those that there are."""
  return nnx.avg_pool(x_NHWC, (3, 3), (1, 1), "SAME", count_include_pad=False)


def halved(x_NHWC: jax.Array) -> jax.Array:
  """The largest of 3 x 3 neighbours, at every other place."""
  return nnx.max_pool(x_NHWC, (3, 3), (2, 2))


class BlockA(nnx.Module):
  """1 x 1, 5 x 5 and two 3 x 3; 35 x 35 places."""

  def __init__(self, size_in: int, pooled: int, *, rngs: nnx.Rngs):
    make = functools.partial(Convolution, rngs=rngs)
    self.branch1x1 = make(size_in, 64)
    self.branch5x5_1 = make(size_in, 48)
    self.branch5x5_2 = make(48, 64, (5, 5))
    self.branch3x3dbl_1 = make(size_in, 64)
    self.branch3x3dbl_2 = make(64, 96, (3, 3))
    self.branch3x3dbl_3 = make(96, 96, (3, 3))
    self.branch_pool = make(size_in, pooled)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Four branches side by side."""
    five = chain(x, self.branch5x5_1, self.branch5x5_2)
    three = chain(
      x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3
    )
    pool = self.branch_pool(average(x))
    return jnp.concatenate([self.branch1x1(x), five, three, pool], -1)


class BlockB(nnx.Module):
  """From 35 x 35 places to 17 x 17."""

  def __init__(self, size_in: int, *, rngs: nnx.Rngs):
    make = functools.partial(Convolution, rngs=rngs)
    self.branch3x3 = make(size_in, 384, (3, 3), 2, "VALID")
    self.branch3x3dbl_1 = make(size_in, 64)
    self.branch3x3dbl_2 = make(64, 96, (3, 3))
    self.branch3x3dbl_3 = make(96, 96, (3, 3), 2, "VALID")

  def __call__(self, x: jax.Array) -> jax.Array:
    """Three branches side by side."""
    three = chain(
      x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3
    )
    return jnp.concatenate([self.branch3x3(x), three, halved(x)], -1)


class BlockC(nnx.Module):
  """7 x 7 as 1 x 7 and 7 x 1; 17 x 17 places."""

  def __init__(self, size: int, *, rngs: nnx.Rngs):
    make = functools.partial(Convolution, rngs=rngs)
    self.branch1x1 = make(768, 192)
    self.branch7x7_1 = make(768, size)
    self.branch7x7_2 = make(size, size, (1, 7))
    self.branch7x7_3 = make(size, 192, (7, 1))
    self.branch7x7dbl_1 = make(768, size)
    self.branch7x7dbl_2 = make(size, size, (7, 1))
    self.branch7x7dbl_3 = make(size, size, (1, 7))
    self.branch7x7dbl_4 = make(size, size, (7, 1))
    self.branch7x7dbl_5 = make(size, 192, (1, 7))
    self.branch_pool = make(768, 192)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Four branches side by side."""
    once = chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3)
    twice = chain(
      x,
      self.branch7x7dbl_1,
      self.branch7x7dbl_2,
      self.branch7x7dbl_3,
      self.branch7x7dbl_4,
      self.branch7x7dbl_5,
    )
    pool = self.branch_pool(average(x))
    return jnp.concatenate([self.branch1x1(x), once, twice, pool], -1)


class BlockD(nnx.Module):
  """From 17 x 17 places to 8 x 8."""

  def __init__(self, *, rngs: nnx.Rngs):
    make = functools.partial(Convolution, rngs=rngs)
    self.branch3x3_1 = make(768, 192)
    self.branch3x3_2 = make(192, 320, (3, 3), 2, "VALID")
    self.branch7x7x3_1 = make(768, 192)
    self.branch7x7x3_2 = make(192, 192, (1, 7))
    self.branch7x7x3_3 = make(192, 192, (7, 1))
    self.branch7x7x3_4 = make(192, 192, (3, 3), 2, "VALID")

  def __call__(self, x: jax.Array) -> jax.Array:
    """Three branches side by side."""
    three = chain(x, self.branch3x3_1, self.branch3x3_2)
    seven = chain(
      x,
      self.branch7x7x3_1,
      self.branch7x7x3_2,
      self.branch7x7x3_3,
      self.branch7x7x3_4,
    )
    return jnp.concatenate([three, seven, halved(x)], -1)


class BlockE(nnx.Module):
  """3 x 3 as 1 x 3 beside 3 x 1; 8 x 8 places."""

  def __init__(self, size_in: int, pool: Callable, *, rngs: nnx.Rngs):
    make = functools.partial(Convolution, rngs=rngs)
    self.branch1x1 = make(size_in, 320)
    self.branch3x3_1 = make(size_in, 384)
    self.branch3x3_2a = make(384, 384, (1, 3))
    self.branch3x3_2b = make(384, 384, (3, 1))
    self.branch3x3dbl_1 = make(size_in, 448)
    self.branch3x3dbl_2 = make(448, 384, (3, 3))
    self.branch3x3dbl_3a = make(384, 384, (1, 3))
    self.branch3x3dbl_3b = make(384, 384, (3, 1))
    self.branch_pool = make(size_in, 192)
    self.pool = pool

  def __call__(self, x: jax.Array) -> jax.Array:
    """Six branches side by side."""
    once = self.branch3x3_1(x)
    twice = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
    return jnp.concatenate(
      [
        self.branch1x1(x),
        self.branch3x3_2a(once),
        self.branch3x3_2b(once),
        self.branch3x3dbl_3a(twice),
        self.branch3x3dbl_3b(twice),
        self.branch_pool(self.pool(x)),
      ],
      -1,
    )


def largest(x_NHWC: jax.Array) -> jax.Array:
  """Of 3 x 3 neighbours."""
  return nnx.max_pool(x_NHWC, (3, 3), (1, 1), "SAME")


class InceptionV3(nnx.Module):
  """Without its classifier."""

  def __init__(self, *, rngs: nnx.Rngs):
    make = functools.partial(Convolution, rngs=rngs)
    self.Conv2d_1a_3x3 = make(3, 32, (3, 3), 2, "VALID")
    self.Conv2d_2a_3x3 = make(32, 32, (3, 3), 1, "VALID")
    self.Conv2d_2b_3x3 = make(32, 64, (3, 3))
    self.Conv2d_3b_1x1 = make(64, 80)
    self.Conv2d_4a_3x3 = make(80, 192, (3, 3), 1, "VALID")
    self.Mixed_5b = BlockA(192, 32, rngs=rngs)
    self.Mixed_5c = BlockA(256, 64, rngs=rngs)
    self.Mixed_5d = BlockA(288, 64, rngs=rngs)
    self.Mixed_6a = BlockB(288, rngs=rngs)
    self.Mixed_6b = BlockC(128, rngs=rngs)
    self.Mixed_6c = BlockC(160, rngs=rngs)
    self.Mixed_6d = BlockC(160, rngs=rngs)
    self.Mixed_6e = BlockC(192, rngs=rngs)
    self.Mixed_7a = BlockD(rngs=rngs)
    self.Mixed_7b = BlockE(1280, average, rngs=rngs)
    self.Mixed_7c = BlockE(2048, largest, rngs=rngs)

  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """Features [N, 2048] of images of 75 x 75 pixels or more."""
    x = chain(x_NHWC, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3)
    x = halved(self.Conv2d_2b_3x3(x))
    x = halved(chain(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3))
    x = chain(x, self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a)
    x = chain(x, self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e)
    x = chain(x, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c)
    return x.mean((1, 2))
