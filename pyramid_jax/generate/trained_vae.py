"""A trained VAE as pixels in, normalised or stored latents out, and back.

Legend: B clips, T frames, H W pixels, h w latent pixels, Z latent channels.
"""

import functools
import hashlib
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from pyramid_jax import checkpoint, sharding
from pyramid_jax import config as settings
from pyramid_jax.config import VAEConfig
from pyramid_jax.data.latents import Statistics
from pyramid_jax.generate.export import to_uint8
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models import vae_tiling
from pyramid_jax.models.pure import Params, Pure, fingerprint, pure


class TrainedVAE:
  """Encodes and decodes clips, in chunks of time.

  Attributes:
    config: its sizes.
    statistics: shift and scale of its latents.
    fingerprint: what stored latents remember it by.
    path: the workdir it was read from.
    space_factor, time_factor: pixels and frames of a latent value.
  """

  def __init__(
    self,
    config: VAEConfig,
    params: Params,
    statistics: Statistics,
    *,
    mesh: jax.sharding.Mesh,
    path: str = "",
  ):
    self.config, self.params, self.mesh = config, params, mesh
    self.statistics, self.path = statistics, path
    self.space_factor = 2 ** sum(config.down_space)
    self.time_factor = 2 ** sum(config.down_time)
    self.fingerprint = fingerprint(settings.to_json(config), params)
    model = make_model(config)

    def encode(params, video_BTHWC, cache):
      pixels = video_BTHWC.astype(jnp.float32) / 127.5 - 1
      return model.apply(params, pixels, cache, method="encode_chunk")

    def draw(moments, seeds, chunk):
      q = vae_lib.posterior(moments)
      if not config.sample:
        return q.mode
      shape = q.mean.shape[1:]

      def noise(seed):
        key = jax.random.fold_in(jax.random.key(seed), chunk)
        return jax.random.normal(key, shape)

      return q.sample(jax.vmap(noise)(seeds))

    def decode(params, z_BTHWZ, cache):
      return model.apply(params, z_BTHWZ, cache, method="decode_chunk")

    self._encode = jax.jit(encode)
    self._draw = jax.jit(draw)
    self._decode = jax.jit(decode)

  @classmethod
  def load(
    cls, workdir: str | pathlib.Path, mesh: jax.sharding.Mesh
  ) -> "TrainedVAE":
    """Reads the moving average of the workdir of a finished training.

    Raises:
      CheckpointError: there is none, it is no VAE, or its training is not
        finished, so that its latents have no statistics yet.
    """

    def require(meta):
      if "statistics" not in meta:
        raise checkpoint.CheckpointError(
          f"{workdir} was stopped at step {meta['step']} of {meta['steps']}; "
          "the statistics of its latents are computed at the end. Run the same "
          "pyramid-train again; it continues."
        )

    trained = checkpoint.load_trained(
      workdir,
      "vae",
      lambda config: make_model(config.vae),
      mesh,
      require=require,
    )
    statistics = Statistics(**trained.meta["statistics"])
    path = str(pathlib.Path(workdir).absolute())
    return cls(
      trained.config.vae, trained.params, statistics, mesh=mesh, path=path
    )

  def encode(
    self,
    videos: Sequence[np.ndarray],
    ids: Sequence[str],
    window: int,
    batch: int = 1,
    tile: int = 0,
  ) -> list[np.ndarray]:
    """Latents [T', h, w, Z] of clips uint8 [T, H, W, 3] of one size H, W.

    They are posterior draws that depend on the clip's id alone, or means where
    `config.sample` is False. Not normalised. A clip goes through as its first
    frame and chunks of `window` frames, the last one filled up with copies of
    the last frame, whose latents are dropped (the past does not see them); the
    clips are padded to the longest one, to a multiple of `batch` and of the
    mesh. So a size compiles two programs of the VAE, whatever the durations,
    or one where there are only images. Frames larger than `tile` pixels a side
    go through in tiles (models/vae_tiling.py).
    """
    for video in videos:
      vae_lib.check_clip(
        (1, *video.shape), 1, self.time_factor, self.space_factor
      )
    counts = [1 + (len(v) - 1) // self.time_factor for v in videos]
    padding = -len(videos) % math.lcm(self.batch_multiple, batch)
    seeds = np.array([_seed(i) for i in [*ids, *[ids[-1]] * padding]])
    videos = [*videos, *[videos[-1]] * padding]
    side = tile or max(videos[0].shape[1:3])
    tiled = max(videos[0].shape[1:3]) > side
    caches, parts = {}, []

    def run(place, x):
      x = np.ascontiguousarray(x)
      x = sharding.place_batch(self.mesh, x, len(videos))
      moments, cache = self._encode(self.params, x, caches.get(place))
      caches[place] = jax.device_get(cache) if tiled else cache
      return moments

    with jax.set_mesh(self.mesh):
      for number, chunk in enumerate(_chunks(max(map(len, videos)), window)):
        pixels = np.stack([v[np.minimum(chunk, len(v) - 1)] for v in videos])
        moments = (
          vae_tiling.run_tiles(run, pixels, side, side // self.space_factor)
          if tiled
          else run((0, 0), pixels)
        )
        parts.append(self._draw(moments, seeds, np.int32(number)))
    z = np.concatenate(jax.device_get(parts), 1)
    return [x[:count] for x, count in zip(z, counts, strict=False)]

  def reconstruct(
    self,
    videos: Sequence[np.ndarray],
    ids: Sequence[str],
    batch: int = 1,
    window: int = 16,
  ) -> list[np.ndarray]:
    """Clips uint8 [T, H, W, 3] as they are after encoding and decoding.

    All of one size and length; `ids`, `batch` and `window` as in `encode`.
    """
    latents = self.encode(videos, ids, window, batch)
    padding = -len(latents) % math.lcm(self.batch_multiple, batch)
    latents += latents[-1:] * padding
    z = np.stack([self.statistics.normalise(latent) for latent in latents])
    step = window // self.time_factor
    starts = range(1, z.shape[1], step)
    chunks = [z[:, :1], *[z[:, i : i + step] for i in starts]]
    frames = np.concatenate(list(self.decode_stream(chunks)), 1)
    return list(frames[: len(videos)])

  def _place(self, z_BTHWZ) -> jax.Array:
    """Latents where the batch lies, so that all chunks meet one program."""
    names = ("batch", None, None, None, None)
    spec = sharding.dividing_spec(self.mesh, z_BTHWZ.shape, names)
    return jax.device_put(z_BTHWZ, NamedSharding(self.mesh, spec))

  @property
  def batch_multiple(self) -> int:
    """Batches of a multiple of this fill the mesh."""
    return int(np.prod([self.mesh.shape[a] for a in sharding.RULES["batch"]]))

  def decode_stream(
    self, chunks: Iterable[jax.Array], tile: int = 0, window: int = 0
  ) -> Iterator[np.ndarray]:
    """Frames uint8 [B, T, H, W, 3] of each chunk of normalised latents.

    The chunks are one clip in order; the first begins with its first frame.
    With a `window` they are cut: the first latent alone, then so many at once.
    So a long chunk needs no more memory than others, nor an own program.
    Frames larger than `tile` pixels a side are made in tiles; what a tile has
    to remember of its past waits on the host meanwhile.
    """
    s, caches = self.statistics, {}
    for z_BTHWZ in _cut(chunks, window) if window else chunks:
      z_BTHWZ = self._place(z_BTHWZ)
      later = z_BTHWZ / s.video_scale + s.video_shift
      if not caches:
        first = z_BTHWZ[:, :1] / s.scale + s.shift
        later = jnp.concatenate([first, later[:, 1:]], 1)
      side = tile // self.space_factor or max(later.shape[2:4])
      tiled = max(later.shape[2:4]) > side

      def run(place, z, tiled=tiled):
        pixels, cache = self._decode(self.params, z, caches.get(place))
        caches[place] = jax.device_get(cache) if tiled else cache
        return pixels

      with jax.set_mesh(self.mesh):
        pixels = vae_tiling.run_tiles(
          run, later, side, side * self.space_factor
        )
      yield to_uint8(pixels)


@functools.cache
def make_model(config: VAEConfig) -> Pure:
  """The VAE as pure functions."""
  return pure(lambda rngs: vae_lib.VAE(config, rngs=rngs))


def _chunks(frames: int, window: int) -> list[np.ndarray]:
  """Numbers of the first frame, then of equally many frames a chunk."""
  starts = range(1, frames, window)
  return [np.arange(1), *(np.arange(i, i + window) for i in starts)]


def _cut(chunks: Iterable[jax.Array], window: int) -> Iterator[jax.Array]:
  """The first latent of a clip alone, then `window` of a chunk at once."""
  first = 1
  for chunk in chunks:
    places = range(first, chunk.shape[1], window)
    yield from jnp.split(chunk, list(places), axis=1)
    first = window


def _seed(id: str) -> np.uint32:
  digest = hashlib.blake2b(id.encode(), digest_size=4).digest()
  return np.frombuffer(digest, np.uint32)[0]
