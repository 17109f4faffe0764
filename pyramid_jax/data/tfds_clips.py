"""Clips of a prepared TFDS dataset, read without TensorFlow.

The features say by their types what they are: an image, a sequence of images or
the bytes of a video file are the clip; text, a list of texts or a label are its
captions. Records are read raw and decoded as files are, as strictly.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pyramid_jax.config import ConfigError, EncodeConfig
from pyramid_jax.data import latent_record, video
from pyramid_jax.data.files import LeftOut
from pyramid_jax.data.video import BadVideo, Clip

CAPTION_NAMES = ("caption", "captions", "text", "prompt")  # where several fit
RAW = tfds.decode.DeserializeMethod.RAW_BYTES


class TfdsClips:
  """A split of a prepared dataset; images and frames have the config's sizes.

  Frames of a sequence are taken to have the config's rate: TFDS knows none.

  Raises:
    ConfigError: it is not there, not in ArrayRecord files, or has no features
      that can be a clip and its caption.
  """

  left_out: Sequence[LeftOut] = ()

  def __init__(
    self,
    name: str,
    config: EncodeConfig,
    split: str = "train",
    data_dir: str | None = None,
  ):
    builder = _open(name, data_dir)
    if split not in builder.info.splits:
      raise ConfigError(
        f"tfds:{name} has no split {split!r}; it has "
        f"{', '.join(builder.info.splits)}."
      )
    try:
      self.records = builder.as_data_source(split, deserialize_method=RAW)
    except NotImplementedError as error:
      raise ConfigError(
        f"tfds:{name} lies in files that only TensorFlow reads; prepare it "
        'with file_format="array_record".'
      ) from error
    self.features = dict(builder.info.features)
    self.clip, self.kind = _only(name, self.features, "clip", _clip_kind)
    self.caption, self.told = _only(name, self.features, "caption", _told)
    self.config = config
    self.ids = [f"{name}/{split}/{i}" for i in range(len(self.records))]
    self.sizes = config.sizes
    if self.kind == "image":
      self.sizes = config.image_sizes or config.sizes
    self.max_frames = 1 if self.kind == "image" else config.max_frames

  def captions(self, i: int) -> Sequence[str]:
    field = self._fields(i)[self.caption]
    if self.told == "label":
      label = self.features[self.caption].int2str(field.int64_list.value[0])
      return (label.replace("_", " "),)
    texts = field.bytes_list.value
    return [x.decode("utf-8", "backslashreplace") for x in texts] or [""]

  def read(self, i: int) -> Clip:
    c, values = self.config, self._fields(i)[self.clip].bytes_list.value
    if self.kind == "image":
      return Clip(video.read_image(values[0], self.sizes)[None])
    if self.kind == "video":
      return video.read_clip(
        values[0], self.sizes, c.fps, c.max_frames, c.min_frames
      )
    count = (min(len(values), c.max_frames) - 1) // 8 * 8 + 1
    if len(values) < max(c.min_frames, 1):
      raise BadVideo(
        f"too short: {len(values)} frames, at least {max(c.min_frames, 1)} are "
        "needed"
      )
    frames = [video.read_image(x, self.sizes) for x in values[:count]]
    if len({frame.shape for frame in frames}) > 1:
      raise BadVideo("its frames have several sizes")
    return Clip(np.stack(frames), min(len(values), c.max_frames) - count)

  def file(self, i: int) -> pathlib.Path | None:
    return None

  def _fields(self, i: int) -> Mapping[str, Any]:
    return latent_record.fields(self.records[i])


def _open(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  try:
    return tfds.core.read_only_builder.builder_from_files(
      name, data_dir=data_dir
    )
  except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
    raise ConfigError(
      f"tfds:{name} is not prepared in {data_dir or 'the default folder'} of "
      "TFDS; name another --data_dir, or prepare it first with "
      'file_format="array_record".'
    ) from error


def _clip_kind(feature: Any) -> str | None:
  """What of a clip a feature holds, if anything."""
  f = tfds.features
  if isinstance(feature, f.Image):
    return "image"
  if isinstance(feature, f.Sequence) and isinstance(feature.feature, f.Image):
    return "frames"
  plain = isinstance(feature, f.Tensor) and not isinstance(feature, f.Text)
  if plain and feature.shape == () and feature.np_dtype == np.object_:
    return "video"
  return None


def _told(feature: Any) -> str | None:
  """How a feature tells what a clip shows, if it does."""
  f = tfds.features
  if isinstance(feature, f.Text):
    return "text"
  if isinstance(feature, f.Sequence) and isinstance(feature.feature, f.Text):
    return "text"
  return "label" if isinstance(feature, f.ClassLabel) else None


def _only(name, features, what, kind_of) -> tuple[str, str]:
  """The one feature that can be the clip or its caption, and how.

  A text goes before a label, and of several texts one with a telling name.
  """
  features = dict(sorted(features.items()))
  kinds = {k: kind for k, f in features.items() if (kind := kind_of(f))}
  texts = [k for k, kind in kinds.items() if kind == "text"]
  fit = texts or list(kinds)
  telling = [k for k in fit if k in CAPTION_NAMES]
  if len(fit) > 1 and len(telling) == 1:
    fit = telling
  if len(fit) != 1:
    listed = ", ".join(f"{k}: {type(f).__name__}" for k, f in features.items())
    raise ConfigError(
      f"tfds:{name} has {len(fit) or 'no'} features that can be the {what}"
      f"{' (' + ', '.join(fit) + ')' if fit else ''}; there must be one. Its "
      f"features: {listed}. A clip is an Image, a Sequence of Images, a Video "
      "or the bytes of a video file; a caption is Text, a Sequence of Text or "
      "a ClassLabel."
    )
  return fit[0], kinds[fit[0]]
