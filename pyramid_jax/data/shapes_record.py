"""A clip of the embedded dataset as a stored record, and back.

Legend: T frames, H W pixels.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyramid_jax.data import shapes


def draw(
  index: int,
  *,
  seed: int,
  frames: int,
  height: int,
  width: int,
  split: str,
  two_objects: float,
) -> dict[str, Any]:
  """The record of a clip, a pure function of its arguments; see `render`."""
  clip = shapes.render(index, seed, frames, height, width, split, two_objects)
  return {
    "id": clip.id,
    "caption": clip.caption,
    "attributes": json.dumps(clip.attributes),
    "video": zlib.compress(clip.video.tobytes(), level=3),
    "frames": frames,
    "height": height,
    "width": width,
  }


def inflate(record: Mapping[str, Any]) -> np.ndarray:
  """All frames of a record, uint8 [T, H, W, 3]."""
  video = np.frombuffer(zlib.decompress(record["video"]), np.uint8)
  return video.reshape(record["frames"], record["height"], record["width"], 3)


def inflate_part(
  record: Mapping[str, Any], start: int, stop: int
) -> np.ndarray:
  """Frames `start` to `stop` of a record; those after them stay packed."""
  shape = record["height"], record["width"], 3
  most = stop * int(np.prod(shape))
  video = zlib.decompressobj().decompress(record["video"], most)
  return np.frombuffer(video, np.uint8).reshape(-1, *shape)[start:]
