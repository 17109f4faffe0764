"""What a Frechet distance compares: features of image and video files.

Images through Inception-v3, as pytorch-fid does; clips, or images, through the
encoder of a trained VAE. Legend: N samples, T frames, H W pixels, h w latent
pixels, Z latent channels, D features.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from pyramid_jax import sharding
from pyramid_jax.config import ConfigError
from pyramid_jax.convert.inception import make_inception
from pyramid_jax.data import video
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.data.files import Item, find_files
from pyramid_jax.generate import export
from pyramid_jax.generate.trained_vae import TrainedVAE
from pyramid_jax.models.inception import SIDE
from pyramid_jax.models.pure import Params

Batches = Iterator[tuple[list[str], np.ndarray]]


def list_items(folder: str | pathlib.Path, kind: str = "") -> list[Item]:
  """The images and videos below a folder, in order; of one kind if asked.

  Raises:
    ConfigError: there are none, one is of the other kind, or a line of a
      manifest names none.
  """
  items, left_out = find_files(folder)
  if left_out:
    name, reason = left_out[0]
    raise ConfigError(f"{name} cannot be used: {reason}.")
  kind = kind or items[0].kind
  for item in items:
    if item.kind != kind:
      raise ConfigError(f"{item.path} is a {item.kind}; {kind}s are compared.")
  return items


def read(
  item: Item, reader: Callable[[pathlib.Path], np.ndarray] = video.read_frames
) -> np.ndarray:
  """What a reader makes of a file.

  Raises:
    ConfigError: it cannot be read; names it.
  """
  try:
    return reader(item.path)
  except BadVideo as error:
    raise ConfigError(f"{item.path} cannot be used: {error}.") from error


def inception_features(
  items: Sequence[Item], params: Params, mesh: jax.sharding.Mesh, batch: int = 8
) -> Batches:
  """Features [N, 2048] of images, with their names.

  Raises:
    ConfigError: a file that cannot be read.
  """
  run, batch = _inception(), math.lcm(batch, mesh.size)
  for part in _batches(items, batch):
    images = [resized(read(item)[0]) for item in part]
    images += [images[-1]] * (batch - len(part))  # one shape, one program
    placed = sharding.place_batch(mesh, np.stack(images), batch)
    features = np.asarray(run(params, placed))
    yield [str(i.path) for i in part], features[: len(part)]


@functools.cache
def _inception() -> Callable[[Params, jax.Array], jax.Array]:
  """Features of pixels 0 to 255; compiled once, whatever is compared."""
  model = make_inception()

  def describe(params, x):
    # a GPU or TPU would round what is multiplied, and FID is compared with
    # that of others to two decimals
    with jax.default_matmul_precision("highest"):
      return model.apply(params, x / 127.5 - 1)

  return jax.jit(describe)


def resized(image_HW3: np.ndarray, side: int = SIDE) -> np.ndarray:
  """Bilinear to a square, in float32; shrinking aliases, as FID's always did.

  (The four pixels around the centre of a new one are weighted, no others.)
  """

  def along(x, axis):
    size = x.shape[axis]
    place = (np.arange(side) + 0.5) * (size / side) - 0.5
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(int)
    part = (place - low).astype(np.float32)
    part = np.expand_dims(part, [a for a in range(x.ndim) if a != axis])
    after = np.minimum(low + 1, size - 1)
    return x.take(low, axis) * (1 - part) + x.take(after, axis) * part

  return along(along(image_HW3.astype(np.float32), 0), 1)


def latent_features(
  items: Sequence[Item],
  vae: TrainedVAE,
  like: video.Format,
  *,
  exact: bool,
  batch: int = 8,
  cells: int = 4,
) -> Batches:
  """Features of clips from their latents, with their names; see `pooled`.

  Args:
    items: the clips.
    vae: encodes them; a clip's draw is that of its place in the list's folder.
    like: the size, rate and length of the clips; an item is resized and
      cropped to it.
    exact: whether an item of another size, rate or length is refused.
    batch: clips encoded together.
    cells: as `pooled`.

  Raises:
    ConfigError: a file that cannot be read, or is too short or otherwise made.
  """

  def reader(path):
    if exact and (found := export.format_of(path)) != like:
      raise ConfigError(f"{path} has {found}; the others have {like}.")
    return video.read_clip(
      path, [(like.height, like.width)], like.fps, like.frames, like.frames
    ).video

  for part in _batches(items, batch):
    clips = [read(item, reader) for item in part]
    latents = vae.encode(clips, [i.id for i in part], 8, batch)
    latents = [vae.statistics.normalise(z) for z in latents]
    features = np.stack([pooled(z, cells) for z in latents])
    yield [str(i.path) for i in part], features


def pooled(z_ThwZ: np.ndarray, cells: int = 4) -> np.ndarray:
  """A clip's features: what its latents show, and how much they change.

  The mean over time, and of a clip of several latent frames also the mean
  absolute difference of neighbouring ones, each averaged within `cells` x
  `cells` parts of the picture: [cells^2 Z], or twice as many.
  """
  z = np.asarray(z_ThwZ, np.float64)
  parts = [z.mean(0)]
  if len(z) > 1:
    parts.append(np.abs(np.diff(z, axis=0)).mean(0))
  for axis in (0, 1):
    parts = [_means(part, min(cells, part.shape[axis]), axis) for part in parts]
  return np.concatenate([part.ravel() for part in parts])


def _means(x: np.ndarray, count: int, axis: int) -> np.ndarray:
  parts = np.array_split(x, count, axis)
  return np.stack([part.mean(axis) for part in parts], axis)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
  return (items[i : i + size] for i in range(0, len(items), size))
