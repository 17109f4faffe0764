"""Images and videos to go on from."""

import logging
import pathlib

import numpy as np

from pyramid_jax.config import ConfigError
from pyramid_jax.data import video
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.data.files import IMAGE_ENDINGS

log = logging.getLogger(__name__)


def read_given(
  path: str, height: int, width: int, frames: int, fps: float
) -> np.ndarray:
  """An image or a video's first frames, uint8 [T0, height, width, 3].

  Resized to cover the size and cropped in the middle; of a video at most
  `frames` at `fps`, trimmed to 8 n + 1.

  Raises:
    ConfigError: it is missing, no image or video, damaged, or a video of fewer
      than 9 frames, which is no more than an image.
  """
  file = pathlib.Path(path)
  image = file.suffix.lower() in IMAGE_ENDINGS
  if not file.is_file():
    raise ConfigError(f"{path} does not exist.")
  try:
    clip = video.read_clip(
      file, [(height, width)], fps, max_frames=frames, min_frames=9
    )
  except BadVideo as error:
    what = "image" if image else "video"
    raise ConfigError(f"{path} cannot be used as {what}: {error}.") from error
  if clip.trimmed:
    log.warning("%s: the last %d frames are left out.", path, clip.trimmed)
  return clip.video
