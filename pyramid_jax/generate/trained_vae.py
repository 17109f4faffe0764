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

    def encode(params, video_BTHWC, window):
      return model.apply(
        params,
        video_BTHWC.astype(jnp.float32) / 127.5 - 1,
        method=lambda vae, x: vae_lib.encode_chunked(vae, x, window),
      )

    def draw(moments, keys):
      q = vae_lib.posterior(moments)
      if not config.sample:
        return q.mode
      shape = q.mean.shape[1:]
      eps = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
      return q.sample(eps)

    def decode(params, z_BTHWZ, cache):
      return model.apply(params, z_BTHWZ, cache, method="decode_chunk")

    self._encode = jax.jit(encode, static_argnames="window")
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
    """Latents [T', h, w, Z] of clips uint8 [T, H, W, 3] of one shape.

    They are posterior draws that depend on the clip's id alone, or means where
    `config.sample` is False. Not normalised. The clips are padded to a multiple
    of `batch` and of the mesh, so that few shapes are compiled. Frames larger
    than `tile` pixels a side go through in tiles (models/vae_tiling.py).
    """
    count, split = len(videos), math.lcm(self.batch_multiple, batch)
    padded = -(-count // split) * split
    videos = [*videos, *[videos[-1]] * (padded - count)]
    ids = [*ids, *[ids[-1]] * (padded - count)]
    keys = jax.vmap(jax.random.key)(np.array([_seed(i) for i in ids]))
    video = np.stack(videos)

    def run(_, x):
      batch = sharding.place_batch(self.mesh, np.ascontiguousarray(x), padded)
      return self._encode(self.params, batch, window=window)

    with jax.set_mesh(self.mesh):
      if tile and max(video.shape[2:4]) > tile:
        moments = vae_tiling.run_tiles(
          run, video, tile, tile // self.space_factor
        )
      else:
        moments = run((0, 0), video)
      z = self._draw(moments, keys)
    return list(np.asarray(z))[:count]

  @property
  def batch_multiple(self) -> int:
    """Batches of a multiple of this fill the mesh."""
    return int(np.prod([self.mesh.shape[a] for a in sharding.RULES["batch"]]))

  def decode_stream(
    self, chunks: Iterable[jax.Array], tile: int = 0
  ) -> Iterator[np.ndarray]:
    """Frames uint8 [B, T, H, W, 3] of each chunk of normalised latents.

    The chunks are one clip in order; the first begins with its first frame.
    Frames larger than `tile` pixels a side are made in tiles; what a tile has
    to remember of its past waits on the host meanwhile.
    """
    s, caches = self.statistics, {}
    for z_BTHWZ in chunks:
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


def _seed(id: str) -> np.uint32:
  digest = hashlib.blake2b(id.encode(), digest_size=4).digest()
  return np.frombuffer(digest, np.uint32)[0]
