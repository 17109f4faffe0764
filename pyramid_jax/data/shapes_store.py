"""The embedded dataset on disk: ArrayRecord files written through TFDS.

TensorFlow is not needed. A folder is complete or absent, and remembers the
settings that it was written with.
"""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from pyramid_jax.config import ConfigError, differences, from_dict
from pyramid_jax.data import folders, shapes, shapes_record, workers


@dataclasses.dataclass(frozen=True)
class ShapesConfig:
  """What decides the content of a dataset."""

  clips: int = 512
  heldout: int = 64
  seed: int = 0
  frames: int = 17  # 8 n + 1
  height: int = 64
  width: int = 64
  two_objects: float = 0.0  # share of clips with two objects
  renderer: int = shapes.RENDERER


class _Info(tfds.core.DatasetInfo):
  """Asks no bucket for what it knows, and makes no folder for the answer."""

  def initialize_from_bucket(self) -> None:
    """Nothing: the dataset is of this program alone."""


class Shapes(tfds.core.GeneratorBasedBuilder):
  """Writes the dataset as ArrayRecord; `write` calls it."""

  VERSION = tfds.core.Version("1.0.0")
  # TFDS would look for download checksums beside the source file, through a
  # package (importlib_resources) that it does not install
  code_path = None

  def __init__(
    self,
    *,
    settings: ShapesConfig = ShapesConfig(),
    processes: int = 1,
    **kwargs,
  ):
    self.settings = settings  # `_info` and the splits read it
    self.processes = processes
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    text, number = tfds.features.Text(), tfds.features.Scalar(np.int32)
    return _Info(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          "id": text,
          "caption": text,
          "attributes": text,  # JSON
          # features.Video needs TensorFlow: deflated bytes of [T, H, W, 3]
          "video": tfds.features.Tensor(shape=(), dtype=np.bytes_),
          "frames": number,
          "height": number,
          "width": number,
        }
      ),
      metadata=tfds.core.MetadataDict(dataclasses.asdict(self.settings)),
      disable_shuffling=True,  # record i is clip i
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager
    counts = (self.settings.clips, self.settings.heldout)
    return {
      split: self._generate_examples(split, count)
      for split, count in zip(shapes.SPLITS, counts, strict=True)
    }

  def _generate_examples(self, split: str, count: int) -> Iterator:
    c = dataclasses.asdict(self.settings)
    del c["clips"], c["heldout"], c["renderer"]
    draw = functools.partial(shapes_record.draw, split=split, **c)
    drawn = tqdm.tqdm(
      workers.in_order(draw, range(count), self.processes),
      f"shapes {split}",
      count,
      unit="clip",
      disable=None,
    )
    yield from enumerate(drawn)


def write(
  folder: str | pathlib.Path, settings: ShapesConfig, processes: int = 1
) -> pathlib.Path:
  """Renders a dataset into `folder`, or keeps the equal one that is there.

  The clips are the same whatever the number of processes that draw.

  Raises:
    ConfigError: the folder holds something else, or a setting is out of range.
  """
  folder = pathlib.Path(folder)
  shapes.check_size(settings.frames, settings.height, settings.width)
  if min(settings.clips, settings.heldout) < 1:
    raise ConfigError(
      f"clips {settings.clips} and heldout {settings.heldout} must be at least "
      "1: each split needs a clip."
    )
  if folder.exists() and any(folder.iterdir()):
    changed = differences(settings_of(folder), settings, "shapes")
    if changed:
      raise ConfigError(
        f"{folder} holds another dataset: {'; '.join(changed)} (stored -> "
        "asked for). Remove the folder or choose another one."
      )
    return folder
  partial = folder.parent / f".{folder.name}.partial"
  shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
  builder = Shapes(settings=settings, processes=processes, data_dir=partial)
  # its bars count examples a second time; without the second line it would ask
  # a public bucket for a dataset of this name
  tfds.disable_progress_bar()
  download = tfds.download.DownloadConfig(try_download_gcs=False)
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_config=download)
  pathlib.Path(builder.data_path).rename(folder)
  shutil.rmtree(partial)
  return folder


def settings_of(folder: str | pathlib.Path) -> ShapesConfig:
  """The settings with which `write` made this folder.

  Raises:
    ConfigError: it is not such a folder.
  """
  folders.require_clips(folder)
  path = pathlib.Path(folder) / "metadata.json"
  try:
    return from_dict(ShapesConfig, json.loads(path.read_text()), "shapes")
  except (OSError, json.JSONDecodeError, AttributeError) as error:
    raise ConfigError(
      f"{folder} is not a complete dataset of shapes ({path.name}: {error}). "
      "Write one into a new or empty folder."
    ) from error


class Stored:
  """Random access to a split that `write` made, as `Example`s."""

  def __init__(self, folder: str | pathlib.Path, split: str = "train"):
    self.settings = settings_of(folder)
    builder = tfds.builder_from_directory(str(folder))
    self.records = builder.as_data_source(split=split)

  def __len__(self) -> int:
    return len(self.records)

  def captions(self) -> list[str]:
    """All captions, in order; no clip is unpacked."""
    return [self.records[i]["caption"].decode() for i in range(len(self))]

  def __getitem__(self, index: int) -> shapes.Example:
    if not 0 <= index < len(self):
      raise IndexError(f"clip {index} of {len(self)}")
    record = self.records[index]
    return shapes.Example(
      record["id"].decode(),
      record["caption"].decode(),
      json.loads(record["attributes"]),
      shapes_record.inflate(record),
    )

  def frames(self, index: int, start: int, stop: int) -> np.ndarray:
    """Frames of a clip, uint8 [T, H, W, 3]; a prefix of it is unpacked."""
    return shapes_record.inflate_part(self.records[index], start, stop)
