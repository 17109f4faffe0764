"""Convolutions over space and past time, with an explicit memory.

Every module here and in `vae.py` is called as `y, cache = module(x, cache)`.
`cache` None means that `x` starts the clip: what came before is zero. The
cache that comes back is a pytree of the last frames each convolution will
read again; passing it on continues the clip in chunks, to the same numbers.

Legend: B clips, T frames, H W space, C channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from pyramid_jax.attention.attend import platform
from pyramid_jax.models.init import (
  Init,
  last_frame_normal,
  resampling,
  zeros,
)
from pyramid_jax.models.pure import axes
from pyramid_jax.sharding import beside_split_pictures

TAPS = 3  # of a kernel, along each of time, height and width

Cache = Any


def chain(
  modules: Sequence[nnx.Module], x: Any, cache: Cache, *, remat: bool = False
) -> tuple[jax.Array, Cache]:
  """Calls the modules in a row, each with its own part of the cache.

  With `remat` the backward pass keeps only what goes from one to the next.
  """

  def call(module, x, cache):
    return module(x, cache)

  if remat:
    call = jax.checkpoint(call)
  caches = []
  for i, module in enumerate(modules):
    x, part = call(module, x, None if cache is None else cache[i])
    caches.append(part)
  return x, tuple(caches)


class CausalConv(nnx.Module):
  """3 x 3 x 3 convolution that sees its own frame and the two before it.

  Zero padding in space, 1 on each side. A chunk that starts a clip gives
  ceil(T / time_stride) frames, a later one T / time_stride.

  Each tap in time is a 2D convolution with time folded into the batch: on CPU 5
  times faster than a 3D one, and a tap that would only see the zeros before a
  clip costs nothing, so a single frame pays for one tap of three. TPUs get a 3D
  one for more frames than one: their compiler works on each convolution for
  long, and there are hundreds in a training step.
  """

  def __init__(
    self,
    size_in: int,
    size_out: int,
    *,
    rngs: nnx.Rngs,
    dtype: str,
    time_stride: int = 1,
    space_stride: int = 1,
    init: Init = last_frame_normal,
  ):
    names = ("kernel", "kernel", "kernel", "channels_in", "channels")
    shape = (TAPS, TAPS, TAPS, size_in, size_out)
    self.kernel = nnx.Param(axes(init, *names)(rngs.params(), shape))
    self.bias = nnx.Param(axes(zeros, "channels")(rngs.params(), (size_out,)))
    self.dtype = dtype
    self.time_stride = time_stride
    self.space_stride = space_stride

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache, channels: int | None = None
  ) -> tuple[jax.Array, Cache]:
    """Convolves a chunk; with `channels` only that many last ones come out."""
    x = x_BTHWC.astype(self.dtype)
    kernel, bias = self.kernel[...], self.bias[...]
    if channels is not None:
      kernel, bias = kernel[..., -channels:], bias[-channels:]
    kept = TAPS - self.time_stride  # frames that the next chunk reads again
    zeros_before = 0
    if cache is None:
      zeros_before = TAPS - 1
    else:
      x = jnp.concatenate([cache, x], 1)
    whole = platform() == "tpu" and x.shape[1] > 1
    convolve = self._conv3d if whole else self._taps
    y = convolve(x, kernel.astype(self.dtype), bias, zeros_before)
    lacking = max(0, kept - x.shape[1])  # a first chunk of a single frame
    memory = jnp.pad(x[:, -kept:], [(0, 0), (lacking, 0), *[(0, 0)] * 3])
    return y, memory

  def _conv3d(self, x_BTHWC, kernel, bias, zeros_before: int) -> jax.Array:
    y = jax.lax.conv_general_dilated(
      x_BTHWC,
      beside_split_pictures(kernel),
      (self.time_stride, self.space_stride, self.space_stride),
      ((zeros_before, 0), (1, 1), (1, 1)),
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return y + bias.astype(self.dtype)

  def _taps(self, x_BTHWC, kernel, bias, zeros_before: int) -> jax.Array:
    frames = zeros_before + x_BTHWC.shape[1]
    frames_out = (frames - TAPS) // self.time_stride + 1
    y = bias.astype(self.dtype)
    for tap in range(TAPS):
      # outputs for which this tap sees only zeros
      skip = max(0, -((tap - zeros_before) // self.time_stride))
      if skip < frames_out:
        first = tap - zeros_before + skip * self.time_stride
        seen = x_BTHWC[:, first :: self.time_stride][:, : frames_out - skip]
        part = self._conv2d(seen, kernel[tap])
        y = y + jnp.pad(part, [(0, 0), (skip, 0), *[(0, 0)] * 3])
    return y

  def _conv2d(self, x_BTHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    y = jax.lax.conv_general_dilated(
      rearrange(x_BTHWC, "b t h w c -> (b t) h w c"),
      beside_split_pictures(kernel),
      (self.space_stride,) * 2,
      ((1, 1), (1, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return rearrange(y, "(b t) h w c -> b t h w c", b=x_BTHWC.shape[0])


class SpaceUp(nnx.Module):
  """Doubles height and width: 4 C channels become 2 x 2 pixels."""

  def __init__(self, size: int, *, rngs: nnx.Rngs, dtype: str):
    self.conv = CausalConv(
      size, 4 * size, rngs=rngs, dtype=dtype, init=resampling
    )

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    y, cache = self.conv(x_BTHWC, cache)
    y = rearrange(y, "b t h w (p q c) -> b t (h p) (w q) c", p=2, q=2)
    return y, cache


class TimeUp(nnx.Module):
  """Doubles the frames: 2 C channels become 2 frames.

  The first frame of a clip stands for itself alone, so of its two only the
  second is kept (and computed): T frames become 2 T - 1, in a later chunk 2 T.
  """

  def __init__(self, size: int, *, rngs: nnx.Rngs, dtype: str):
    self.conv = CausalConv(
      size, 2 * size, rngs=rngs, dtype=dtype, init=resampling
    )

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    x, parts = x_BTHWC, []
    if cache is None:
      y, cache = self.conv(x[:, :1], None, channels=x.shape[-1])
      x, parts = x[:, 1:], [y]
    if x.shape[1]:
      y, cache = self.conv(x, cache)
      parts.append(rearrange(y, "b t h w (p c) -> b (t p) h w c", p=2))
    return jnp.concatenate(parts, 1), cache
