"""Frechet distances of two folders of files, shared by several processes."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import jax

from pyramid_jax import sharding
from pyramid_jax.config import ConfigError, MeshConfig
from pyramid_jax.convert.inception import load_inception
from pyramid_jax.data.files import Item
from pyramid_jax.evals import features, frechet, results
from pyramid_jax.generate import export
from pyramid_jax.generate.trained_vae import TrainedVAE

Path = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Distance:
  """How far generated files are from real ones.

  Attributes:
    frechet: the distance.
    features: what was compared.
    size: how many features.
    real: how many real files.
    fake: how many generated ones.
  """

  frechet: float
  features: str
  size: int
  real: int
  fake: int

  def __str__(self) -> str:
    return (
      f"Frechet distance {self.frechet:.4f}: {self.size} features of "
      f"{self.features}, {self.real} real and {self.fake} generated files"
    )


def of_images(
  real: Path, fake: Path, weights: Path, batch: int = 8
) -> Distance:
  """FID of two folders of images, of any sizes.

  Args:
    real: folder of real ones.
    fake: folder of generated ones.
    weights: Inception's, see convert/inception.py.
    batch: images at once.

  Raises:
    ConfigError: no images, one that cannot be read, or a benchmark's folder
      that lacks some.
    NameTableError: other weights.
  """
  results.require_whole(fake)
  folders = [features.list_items(f, "image") for f in (real, fake)]
  params, mesh = load_inception(weights), _local_mesh()
  return _distance(
    folders,
    lambda items, _: features.inception_features(items, params, mesh, batch),
    "Inception-v3",
  )


def of_clips(real: Path, fake: Path, vae: Path, batch: int = 8) -> Distance:
  """The distance of a VAE's latents of two folders of clips, or of images.

  Real ones are resized, cropped and cut to the size, rate and length of the
  generated ones, which must be alike.

  Args:
    real: folder of real ones.
    fake: folder of generated ones.
    vae: workdir of a training, or converted weights.
    batch: clips at once.

  Raises:
    ConfigError: no clips, one that cannot be read, is too short, or is made
      otherwise than the rest, or a benchmark's folder that lacks some.
  """
  results.require_whole(fake)
  generated = features.list_items(fake)
  folders = [features.list_items(real, generated[0].kind), generated]
  like = features.read(generated[0], export.format_of)
  trained = TrainedVAE.load(vae, _local_mesh())
  return _distance(
    folders,
    lambda items, i: features.latent_features(
      items, trained, like, exact=i == 1, batch=batch
    ),
    f"latents of {like}",
  )


def of_files(
  real: Path,
  fake: Path,
  describe: Callable[[Sequence[Item]], features.Batches],
  name: str,
  kind: str = "video",
) -> Distance:
  """The distance of two folders by any features, such as a video network's.

  Args:
    real: folder of real ones.
    fake: folder of generated ones.
    describe: yields (names, features [N, D]) of the files that it is given, in
      parts of any size; of each process those that it is to read.
    name: of the features, for people.
    kind: of the files, "video" or "image".

  Raises:
    ConfigError: no files of this kind, or features that are not finite.
  """
  folders = [features.list_items(f, kind) for f in (real, fake)]
  return _distance(folders, lambda items, _: describe(items), name)


def _distance(
  folders: Sequence[Sequence[Item]],
  describe: Callable[[Sequence[Item], int], features.Batches],
  name: str,
) -> Distance:
  """Each process describes every N-th file of each folder."""
  count, mine = jax.process_count(), jax.process_index()
  if (fewest := min(map(len, folders))) < max(count, 2):
    raise ConfigError(
      f"{fewest} files cannot be compared by {count} processes; there must be "
      f"{max(count, 2)} at least, and more than there are features."
    )
  real, fake = (
    frechet.over_processes(frechet.moments(describe(items[mine::count], i)))
    for i, items in enumerate(folders)
  )
  value = frechet.frechet_distance(real, fake)
  return Distance(value, name, len(real.mean), real.count, fake.count)


def _local_mesh() -> jax.sharding.Mesh:
  return sharding.make_mesh(MeshConfig(), jax.local_devices())
