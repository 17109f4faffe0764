"""Causal 3D VAE: clips of pixels <-> latents, 8 x 8 x 8 as released.

The first frame is encoded alone, then every 8 frames give one latent frame, so
an image is a clip of one frame (paper Sec. 3.4). Frames before the clip are
zero; normalization and attention work inside one frame; nothing ever sees a
later frame. Clips of any length pass in chunks (`encode_chunk`,
`decode_chunk`), with the numbers of the whole.

Legend: B clips, T frames, H W space, C channels, Z latent channels, L = H W.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx

from pyramid_jax.config import ConfigError, UserError, VAEConfig
from pyramid_jax.models import layers
from pyramid_jax.models.causal_conv import (
  Cache,
  CausalConv,
  SpaceUp,
  TimeUp,
  chain,
)
from pyramid_jax.models.init import resampling
from pyramid_jax.sharding import constrain

EPSILON = 1e-6


class ClipShapeError(UserError):
  """A clip whose size the VAE cannot halve the way it has to."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
  """A diagonal Gaussian over latents; `logvar` is clamped to [-30, 20]."""

  mean: jax.Array
  logvar: jax.Array

  @property
  def std(self) -> jax.Array:
    return jnp.exp(0.5 * self.logvar)

  @property
  def mode(self) -> jax.Array:
    return self.mean

  def sample(self, eps_BTHWZ: jax.Array) -> jax.Array:
    """The draw that belongs to unit normal noise `eps`."""
    return self.mean + self.std * eps_BTHWZ

  def kl(self) -> jax.Array:
    """KL divergence to the unit normal, summed over T, H, W: [B, Z]."""
    terms = self.mean**2 + jnp.exp(self.logvar) - 1.0 - self.logvar
    return 0.5 * terms.sum((1, 2, 3))


def posterior(moments: jax.Array) -> Posterior:
  """The distribution that moments [.., 2 Z] (mean, then logvar) stand for."""
  mean, logvar = jnp.split(moments.astype(jnp.float32), 2, -1)
  return Posterior(mean, jnp.clip(logvar, -30.0, 20.0))


class GroupNorm(nnx.Module):
  """Normalizes groups of channels within each frame; float32 inside."""

  def __init__(self, size: int, groups: int, *, rngs: nnx.Rngs):
    self.affine = layers.Scale(size, "channels", bias=True, rngs=rngs)
    self.groups = groups

  def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
    x = x_BTHWC.astype(jnp.float32)
    x = x - self._mean(x)
    x = x * jax.lax.rsqrt(self._mean(x * x) + EPSILON)
    return self.affine(x).astype(x_BTHWC.dtype)

  def _mean(self, x_BTHWC: jax.Array) -> jax.Array:
    """Mean over space and group, one value a channel again."""
    x = reduce(x_BTHWC, "b t h w c -> b t 1 1 c", "mean")
    x = reduce(x, "b t h w (g c) -> b t h w g", "mean", g=self.groups)
    return repeat(
      x, "b t h w g -> b t h w (g c)", c=x_BTHWC.shape[-1] // self.groups
    )


class NormConv(nnx.Module):
  """Group norm, SiLU, causal convolution."""

  def __init__(self, size_in: int, size_out: int, config: VAEConfig, *, rngs):
    self.norm = GroupNorm(size_in, config.groups, rngs=rngs)
    self.conv = CausalConv(size_in, size_out, rngs=rngs, dtype=config.dtype)

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    return self.conv(self.before(x_BTHWC), cache)

  def before(self, x_BTHWC: jax.Array) -> jax.Array:
    """What the convolution reads."""
    return jax.nn.silu(self.norm(x_BTHWC))


class ResBlock(nnx.Module):
  """Two `NormConv` beside a shortcut."""

  def __init__(self, size_in: int, size_out: int, config: VAEConfig, *, rngs):
    self.first = NormConv(size_in, size_out, config, rngs=rngs)
    self.second = NormConv(size_out, size_out, config, rngs=rngs)
    self.shortcut = (
      pointwise(size_in, size_out, config.dtype, rngs)
      if size_in != size_out
      else None
    )

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    y, cache = chain([self.first, self.second], x_BTHWC, cache)
    x = x_BTHWC if self.shortcut is None else self.shortcut(x_BTHWC)
    return x + y, cache


class FrameAttention(nnx.Module):
  """One head of self-attention among the pixels of a frame; no cache."""

  def __init__(self, size: int, config: VAEConfig, *, rngs: nnx.Rngs):
    self.norm = GroupNorm(size, config.groups, rngs=rngs)
    self.query, self.key, self.value, self.out = (
      pointwise(size, size, config.dtype, rngs) for _ in range(4)
    )

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    del cache
    _, t, h, _, _ = x_BTHWC.shape
    normed = self.norm(x_BTHWC)
    q, k, v = (
      rearrange(f(normed), "b t h w c -> (b t) (h w) 1 c")
      for f in (self.query, self.key, self.value)
    )
    y = jax.nn.dot_product_attention(q, k, v)  # softmax in float32
    y = rearrange(y, "(b t) (h w) 1 c -> b t h w c", t=t, h=h)
    return x_BTHWC + self.out(y), ()


class Level(nnx.Module):
  """Residual blocks, then a change of resolution (or none)."""

  def __init__(self, blocks: list, resample: list):
    self.blocks = nnx.List(blocks)
    self.resample = nnx.List(resample)

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    return chain([*self.blocks, *self.resample], _split(x_BTHWC), cache)


def _split(x_BTHWC: jax.Array) -> jax.Array:
  """Clips over the batch axes, their height over the sequence axis of a mesh.

  The compiler then exchanges the rows that convolutions read across the edges
  and sums the means of norms; attention gathers keys and values of a frame.
  """
  return constrain(x_BTHWC, "batch", None, "space", None, None)


def pointwise(size_in: int, size_out: int, dtype: str, rngs) -> nnx.Linear:
  """A 1 x 1 x 1 convolution."""
  return layers.linear(
    size_in, size_out, ("channels_in", "channels"), rngs=rngs, dtype=dtype
  )


def residual(size_in: int, size: int, n: int, config: VAEConfig, rngs) -> list:
  """`n` residual blocks; the first changes the number of channels."""
  sizes = [size_in, *[size] * n]
  return [ResBlock(sizes[i], size, config, rngs=rngs) for i in range(n)]


def middle(size: int, config: VAEConfig, rngs: nnx.Rngs) -> Level:
  """Residual block, attention, residual block."""
  first, last = residual(size, size, 2, config, rngs)
  attention = FrameAttention(size, config, rngs=rngs)
  return Level([first, attention, last], [])


class Encoder(nnx.Module):
  """Pixels to moments, fine to coarse."""

  def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
    c = config
    self.remat = c.remat
    conv = lambda *sizes, **rest: CausalConv(
      *sizes, rngs=rngs, dtype=c.dtype, **rest
    )
    self.conv_in = conv(3, c.channels[0])
    levels = []
    size_in = c.channels[0]
    for size, space, time in zip(
      c.channels, c.down_space, c.down_time, strict=True
    ):
      same = functools.partial(conv, size, size, init=resampling)
      resample = [same(space_stride=2)] if space else []
      resample += [same(time_stride=2)] if time else []
      blocks = residual(size_in, size, c.encoder_blocks, c, rngs)
      levels.append(Level(blocks, resample))
      size_in = size
    self.levels = nnx.List(levels)
    self.middle = middle(size_in, c, rngs)
    self.out = NormConv(size_in, 2 * c.latent_channels, c, rngs=rngs)

  def __call__(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    modules = [self.conv_in, *self.levels, self.middle, self.out]
    return chain(modules, x_BTHWC, cache, remat=self.remat)


class Decoder(nnx.Module):
  """Latents to pixels, coarse to fine."""

  def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
    c = config
    self.remat = c.remat
    size_in = c.channels[-1]
    self.conv_in = CausalConv(
      c.latent_channels, size_in, rngs=rngs, dtype=c.dtype
    )
    self.middle = middle(size_in, c, rngs)
    levels = []
    for level in reversed(range(len(c.channels))):
      size = c.channels[level]
      # what the encoder halved on the way from the next finer level
      space = level > 0 and c.down_space[level - 1]
      time = level > 0 and c.down_time[level - 1]
      resample = [SpaceUp(size, rngs=rngs, dtype=c.dtype)] if space else []
      resample += [TimeUp(size, rngs=rngs, dtype=c.dtype)] if time else []
      blocks = residual(size_in, size, c.decoder_blocks, c, rngs)
      levels.append(Level(blocks, resample))
      size_in = size
    self.levels = nnx.List(levels)
    self.out = NormConv(size_in, 3, c, rngs=rngs)

  def __call__(
    self, z_BTHWZ: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    modules = [self.conv_in, self.middle, *self.levels, self.out]
    return chain(modules, z_BTHWZ, cache, remat=self.remat)

  def features(self, z_BTHWZ: jax.Array) -> jax.Array:
    """What the last convolution reads, of a whole clip."""
    modules = [self.conv_in, self.middle, *self.levels]
    x, _ = chain(modules, z_BTHWZ, None, remat=self.remat)
    return self.out.before(x)


class VAE(nnx.Module):
  """The autoencoder; pixels [B, T, H, W, 3] in [-1, 1], moments, latents.

  The mesh axis `sequence` splits the height of a clip, level by level; a level
  whose height it does not divide is whole on each of its devices. Pixels and
  latents are the same; gradients only where it divides the latents' height,
  which training asks for.

  Raises:
    ConfigError: settings that no clip could pass.
  """

  def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
    check(config)
    z = config.latent_channels
    self.encoder = Encoder(config, rngs=rngs)
    self.moments = pointwise(2 * z, 2 * z, "float32", rngs)
    self.latents = pointwise(z, z, "float32", rngs)
    self.decoder = Decoder(config, rngs=rngs)
    self.space_factor = 2 ** sum(config.down_space)
    self.time_factor = 2 ** sum(config.down_time)

  def encode(self, x_BTHWC: jax.Array) -> jax.Array:
    """Moments [B, (T - 1) / 8 + 1, H / 8, W / 8, 2 Z] of a whole clip."""
    return self.encode_chunk(x_BTHWC, None)[0]

  def decode(self, z_BTHWZ: jax.Array) -> jax.Array:
    """Pixels [B, 8 (T - 1) + 1, 8 H, 8 W, 3] of a whole clip's latents."""
    return self.decode_chunk(z_BTHWZ, None)[0]

  def encode_chunk(
    self, x_BTHWC: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Moments of the next frames: 8 n + 1 of them if `cache` is None, else 8 n.

    Returns:
      The moments, float32, and the cache for the frames after these.

    Raises:
      ClipShapeError: another number of frames, or a height or width that is
        not a multiple of 8 (for a VAE of 8 x 8 x 8).
    """
    first = 1 if cache is None else 0
    check_clip(x_BTHWC.shape, first, self.time_factor, self.space_factor)
    h, cache = self.encoder(_split(x_BTHWC), cache)
    return self.moments(h.astype(jnp.float32)), cache

  def decode_chunk(
    self, z_BTHWZ: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Frames of the next latents, any number: 8 each.

    The first latent of a clip (`cache` None) gives 1 frame.

    Returns:
      The pixels, float32, and the cache for the latents after these.
    """
    x, cache = self.decoder(self.latents(_split(z_BTHWZ)), cache)
    return x.astype(jnp.float32), cache

  def decode_features(self, z_BTHWZ: jax.Array) -> jax.Array:
    """What the decoder's last convolution makes pixels of, of a whole clip."""
    return self.decoder.features(self.latents(z_BTHWZ))

  def pixels(self, features_BTHWC: jax.Array) -> jax.Array:
    """The decoder's last convolution; after `decode_features` as `decode`."""
    return self.decoder.out.conv(features_BTHWC, None)[0].astype(jnp.float32)


def encode_chunked(vae: VAE, x_BTHWC: jax.Array, window: int) -> jax.Array:
  """`vae.encode` in chunks of 1, window, window, ... and what remains.

  Only one chunk's activations are alive at a time. `window` is in frames.

  Raises:
    ClipShapeError: as `VAE.encode_chunk`; for `window` too.
  """
  return _chunked(vae.encode_chunk, x_BTHWC, window)


def decode_chunked(vae: VAE, z_BTHWZ: jax.Array, window: int) -> jax.Array:
  """`vae.decode` in chunks of 1, window, window, ... latents and the rest."""
  return _chunked(vae.decode_chunk, z_BTHWZ, window)


def _chunked(step, x, window: int) -> jax.Array:
  y, cache = step(x[:, :1], None)
  parts = [y]
  n = (x.shape[1] - 1) // window
  if n:
    chunks = rearrange(
      x[:, 1 : 1 + n * window], "b (n t) ... -> n b t ...", n=n
    )
    # a scan carries (state, result) the other way round
    cache, y = jax.lax.scan(lambda c, x: step(x, c)[::-1], cache, chunks)
    parts.append(rearrange(y, "n b t ... -> b (n t) ..."))
  if 1 + n * window < x.shape[1]:
    parts.append(step(x[:, 1 + n * window :], cache)[0])
  return jnp.concatenate(parts, 1)


def check(config: VAEConfig):
  """Raises ConfigError for settings that do not make a VAE."""
  n = len(config.channels)
  for name in ("down_space", "down_time"):
    down = getattr(config, name)
    if len(down) != n or down[-1]:
      raise ConfigError(
        f"vae.{name} is {down}; it needs one value for each of the {n} "
        "channels, the last of them False (nothing is coarser)."
      )
  for size in config.channels:
    if size % config.groups:
      raise ConfigError(
        f"vae.channels {config.channels}: {size} is not a multiple of "
        f"vae.groups {config.groups}; change one of them."
      )


def check_clip(shape: tuple[int, ...], first: int, time: int, space: int):
  """Raises ClipShapeError where `VAE.encode_chunk` says so."""
  _, t, h, w, _ = shape
  if t % time != first % time or t == 0:
    near = max(t - (t - first) % time, first or time)
    kind = f"{time} n + 1" if first else f"a multiple of {time}"
    raise ClipShapeError(
      f"a clip{'' if first else ' going on'} has {t} frames, not {kind}; trim "
      f"it to {near}."
    )
  for name, size in (("height", h), ("width", w)):
    if size % space:
      raise ClipShapeError(
        f"{name} {size} is not a multiple of {space} (VAE); nearest: "
        f"{max(round(size / space), 1) * space}."
      )
