"""Images and videos to go on from."""

import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from pyramid_jax.config import ConfigError, GenerateConfig
from pyramid_jax.data import video
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.data.files import IMAGE_ENDINGS, VIDEO_ENDINGS

log = logging.getLogger(__name__)


def read_given(
  path: str, height: int, width: int, frames: int, fps: float, unit: int = 8
) -> np.ndarray:
  """An image or a video's first frames, uint8 [T0, height, width, 3].

  Resized to cover the size and cropped in the middle; of a video at most
  `frames` at `fps`, trimmed to n `unit` + 1. `unit` is a multiple of 8.

  Raises:
    ConfigError: it is missing, no image or video, damaged, or a video of fewer
      than `unit` + 1 frames, which is no more than an image.
  """
  file = pathlib.Path(path)
  image = file.suffix.lower() in IMAGE_ENDINGS
  if not file.is_file():
    raise ConfigError(f"{path} does not exist.")
  try:
    clip = video.read_clip(
      file, [(height, width)], fps, max_frames=frames, min_frames=unit + 1
    )
  except BadVideo as error:
    what = "image" if image else "video"
    raise ConfigError(f"{path} cannot be used as {what}: {error}.") from error
  whole = (len(clip.video) - 1) // unit * unit + 1
  if left := len(clip.video) + clip.trimmed - whole:
    log.warning("%s: the last %d frames are left out.", path, left)
  return clip.video[:whole]


def read_all(
  images: Sequence[str],
  videos: Sequence[str],
  prompts: int,
  options: GenerateConfig,
  frames_per_unit: int = 1,
) -> list[np.ndarray | None]:
  """The frames that each prompt goes on from, or None.

  A video is cut to whole units, of 8 x `frames_per_unit` frames each, and one
  is left to generate.

  Raises:
    ConfigError: both kinds, a file of the other kind, another number of files
      than one or one a prompt, clips too short to go on from a video, or as
      `read_given`.
  """
  files = [*images, *videos]
  if images and videos:
    raise ConfigError("give --image or --video, not both.")
  _check_kind(images, "image", VIDEO_ENDINGS, "video")
  _check_kind(videos, "video", IMAGE_ENDINGS, "image")
  if not files:
    return [None] * prompts
  if len(files) not in (1, prompts):
    raise ConfigError(
      f"{len(files)} files to go on from for {prompts} prompts; give one, or "
      "one a prompt."
    )
  unit = 8 * frames_per_unit
  room = (options.frames - 1) // unit * unit + 1 - unit
  if videos and room <= unit:
    raise ConfigError(
      f"a video takes {unit + 1} frames at least and leaves {unit}; frames is "
      f"{options.frames}, make it {2 * unit + 1} or more."
    )
  read = [
    read_given(
      file, options.height, options.width, max(room, 1), options.fps, unit
    )
    for file in files
  ]
  return read if len(read) == prompts else read * prompts


def names(
  images: Sequence[str], videos: Sequence[str], prompts: int
) -> list[str]:
  """For each prompt the name of the file that it goes on from, or ""."""
  files = [pathlib.Path(file).name for file in (*images, *videos)] or [""]
  return files if len(files) == prompts else files * prompts


def _check_kind(
  files: Sequence[str], flag: str, others: Sequence[str], other: str
) -> None:
  """Refuses files whose endings are those of the other flag."""
  for file in files:
    if pathlib.Path(file).suffix.lower() in others:
      raise ConfigError(
        f"--{flag}={file} is named as {other}s are; give it as "
        f"--{other}={file}."
      )
