"""Captioned clips to encode: files, the embedded dataset, a TFDS dataset."""

import pathlib
from collections.abc import Sequence
from typing import Protocol

from pyramid_jax.config import EncodeConfig
from pyramid_jax.data import files, folders, video
from pyramid_jax.data.files import LeftOut
from pyramid_jax.data.shapes_store import Stored
from pyramid_jax.data.tfds_clips import TfdsClips
from pyramid_jax.data.video import Clip

TFDS = "tfds:"


class Clips(Protocol):
  """Captioned clips that can be read in any order, from threads.

  Attributes:
    ids: unique, the same on every machine.
    sizes: (height, width) that clips may have.
    max_frames: the longest that a clip may be.
    left_out: what looked like a clip and is none.
  """

  ids: Sequence[str]
  sizes: Sequence[tuple[int, int]]
  max_frames: int
  left_out: Sequence[LeftOut]

  def captions(self, i: int) -> Sequence[str]:
    """All captions of clip i, at least one."""

  def read(self, i: int) -> Clip:
    """Frames of clip i, or `BadVideo`."""

  def file(self, i: int) -> pathlib.Path | None:
    """Where clip i lies, if it is a file of its own."""


class FileClips:
  """The files of a folder or manifest, at the config's rate and sizes."""

  def __init__(self, path: str | pathlib.Path, config: EncodeConfig):
    self.items, self.left_out = files.find_files(path)
    self.ids = [item.id for item in self.items]
    self.config, self.max_frames = config, config.max_frames
    self._of_kind = {
      "video": config.sizes,
      "image": config.image_sizes or config.sizes,
    }
    kinds = {item.kind for item in self.items}
    self.sizes = sorted({s for kind in kinds for s in self._of_kind[kind]})

  def captions(self, i: int) -> Sequence[str]:
    return self.items[i].captions

  def read(self, i: int) -> Clip:
    c, item = self.config, self.items[i]
    return video.read_clip(
      item.path,
      self._of_kind[item.kind],
      c.fps,
      c.max_frames,
      c.min_frames,
      sha256=item.sha256,
    )

  def file(self, i: int) -> pathlib.Path | None:
    return self.items[i].path


class ShapeClips:
  """The training split of the embedded dataset."""

  left_out = ()

  def __init__(self, folder: str | pathlib.Path):
    self.stored = Stored(folder)
    examples = [self.stored[i] for i in range(len(self.stored))]
    self.ids = [e.id for e in examples]
    self._captions = [e.caption for e in examples]
    settings = self.stored.settings
    self.sizes = [(settings.height, settings.width)]
    self.max_frames = settings.frames

  def captions(self, i: int) -> Sequence[str]:
    return (self._captions[i],)

  def read(self, i: int) -> Clip:
    return Clip(self.stored[i].video)

  def file(self, i: int) -> pathlib.Path | None:
    return None


def open_clips(
  path: str,
  config: EncodeConfig,
  split: str = "train",
  data_dir: str | None = None,
) -> Clips:
  """A folder of files, a manifest, one file, the embedded dataset, or TFDS.

  Args:
    path: where it lies; or tfds:NAME, tfds:NAME:VERSION of a prepared dataset.
    config: rate, sizes and lengths.
    split: of TFDS.
    data_dir: of TFDS; None: its own default.

  Raises:
    ConfigError: nothing there that can be read.
  """
  if str(path).startswith(TFDS):
    return TfdsClips(str(path).removeprefix(TFDS), config, split, data_dir)
  folders.require_clips(path)
  if (pathlib.Path(path) / "dataset_info.json").exists():
    return ShapeClips(path)
  return FileClips(path, config)
