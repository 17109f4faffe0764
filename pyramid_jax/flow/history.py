"""What the model sees of the past: which frames at which resolution, and where.

A video is generated unit by unit: the first unit is one latent frame, every
later one `frames_per_unit`. To denoise unit i at stage k the model sees the
units before it, the last at the stage's own level, each older one a level
lower, the rest at the lowest (paper Eq. 17). All of this is integers on the
host; the latents themselves are gathered later.

Legend: L latent tokens, M text tokens, n tokens of one segment.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Clip(NamedTuple):
  """Latent frames [start, stop) of a video at a level, 0 = coarsest."""

  level: int
  start: int
  stop: int


class Layout(NamedTuple):
  """The tokens of a segment, oldest clip first, each clip in order T h w.

  Attributes:
    frame: [n] int32, frame of the token, 0 = oldest.
    yx: [n, 2] float32, coordinates in the position table.
    is_target: [n] bool, whether the model is trained on the token.
    source: [n] int32, its index in `resample.token_pool` of the whole video.
  """

  frame: np.ndarray
  yx: np.ndarray
  is_target: np.ndarray
  source: np.ndarray


def unit_count(frames: int, frames_per_unit: int) -> int:
  """Number of units of a video of `frames` latent frames.

  Raises:
    ValueError: the frames are not 1 + a multiple of `frames_per_unit`.
  """
  if frames < 1 or (frames - 1) % frames_per_unit:
    fit = 1 + max(frames - 1, 0) // frames_per_unit * frames_per_unit
    raise ValueError(
      f"{frames} latent frames are not 1 + a multiple of {frames_per_unit} "
      f"(frames_per_unit); use {fit} or {fit + frames_per_unit}."
    )
  return 1 + (frames - 1) // frames_per_unit


def unit_frames(unit: int, frames_per_unit: int) -> tuple[int, int]:
  """Frames [start, stop) of a unit; unit 0 is the first frame alone."""
  if unit == 0:
    return 0, 1
  return 1 + (unit - 1) * frames_per_unit, 1 + unit * frames_per_unit


def clips(unit: int, stage: int, frames_per_unit: int) -> tuple[Clip, ...]:
  """History and target of a unit at a stage, oldest first (paper Eq. 17).

  The last clip is the target.
  """
  newest_first = [Clip(stage, *unit_frames(unit, frames_per_unit))]
  level = stage
  for past in range(unit - 1, -1, -1):
    start, stop = unit_frames(past, frames_per_unit)
    if level == 0 and past < unit - 1:  # whatever is older is one clip
      newest_first.append(Clip(0, 0, stop))
      break
    newest_first.append(Clip(level, start, stop))
    level = max(level - 1, 0)
  return tuple(reversed(newest_first))


def full_sequence(frames: int, stage: int) -> tuple[Clip, ...]:
  """The one clip of training without history: every frame is a target."""
  return (Clip(stage, 0, frames),)


def token_count(clips: Sequence[Clip], full_tokens: int, stages: int) -> int:
  """Tokens of a segment, given those of one frame at full resolution."""
  return sum(
    (stop - start) * (full_tokens >> 2 * (stages - 1 - level))
    for level, start, stop in clips
  )


def layout(
  clips: Sequence[Clip],
  stages: int,
  frames: int,
  height: int,
  width: int,
  patch: int,
  positions: str = "interpolated",
  table_size: int | None = None,
) -> Layout:
  """Lays the tokens of a segment in a row.

  Args:
    clips: oldest first, the target last.
    stages: K, levels of the pyramid.
    frames: latent frames of the whole video, which `source` refers to.
    height: of the full resolution, latent pixels.
    width: likewise.
    patch: pixels a side of a token.
    positions: of the history. "interpolated": a coarse token lies in the middle
      of the target's tokens that it covers; "plain": on its own grid.
    table_size: tokens a side of the position table, in whose middle the grid
      lies (SD3); None: the grid begins at 0 (Flux).

  Raises:
    ValueError: sizes that do not divide, frames that the video has not, a grid
      larger than the table, another kind of positions.
  """
  _check(clips, stages, frames, height, width, patch, positions)
  grids = [
    (height // patch >> stages - 1 - k, width // patch >> stages - 1 - k)
    for k in range(stages)
  ]
  first = np.cumsum([0] + [frames * h * w for h, w in grids])
  target = grids[clips[-1].level]
  parts = []
  for level, start, stop in clips:
    h, w = grids[level]
    around = (h, w) if positions == "plain" else target
    yx = np.stack(
      np.meshgrid(
        _axis(h, around[0], table_size),
        _axis(w, around[1], table_size),
        indexing="ij",
      ),
      axis=-1,
    ).reshape(-1, 2)
    tokens = np.arange(start * h * w, stop * h * w)
    parts.append(
      (tokens // (h * w), np.tile(yx, (stop - start, 1)), first[level] + tokens)
    )
  frame, yx, source = (np.concatenate(x) for x in zip(*parts, strict=True))
  is_target = np.zeros(len(frame), bool)
  is_target[len(frame) - len(parts[-1][0]) :] = True
  return Layout(
    frame.astype(np.int32),
    yx.astype(np.float32),
    is_target,
    source.astype(np.int32),
  )


def _axis(size: int, around: int, table_size: int | None) -> np.ndarray:
  """Coordinates of `size` tokens spread over the extent of `around` tokens."""
  offset = 0
  if table_size is not None:
    if around > table_size:
      raise ValueError(
        f"{around} tokens a side exceed the position table of {table_size}; "
        "generate at a smaller size or enlarge config.model.table_size."
      )
    offset = (table_size - around) // 2
  return offset + (np.arange(size) + 0.5) * (around / size) - 0.5


def _check(clips, stages, frames, height, width, patch, positions) -> None:
  """Validates the arguments of `layout`."""
  multiple = patch << stages - 1
  for name, size in (("height", height), ("width", width)):
    if size % multiple:
      raise ValueError(
        f"latent {name} {size} is not a multiple of {multiple} "
        f"(2^({stages}-1) x patch {patch}); nearest: "
        f"{max(round(size / multiple), 1) * multiple}."
      )
  if positions not in ("interpolated", "plain"):
    raise ValueError(
      f'positions {positions!r} is not "interpolated" or "plain".'
    )
  for clip in clips:
    if not (0 <= clip.level < stages and 0 <= clip.start < clip.stop <= frames):
      raise ValueError(
        f"{clip} is not part of a video of {frames} latent frames and "
        f"{stages} levels."
      )


def joint_order(
  segment: np.ndarray, frame: np.ndarray, text_segment: np.ndarray
) -> np.ndarray:
  """The order in which text and latent tokens stand in attention.

  Segment by segment, its text first, then its latent tokens by frame; padding,
  text and latent, comes last. Then the keys that a query may see are one range.

  Args:
    segment: [..., L] 1.. or 0 for padding.
    frame: [..., L].
    text_segment: [..., M].

  Returns:
    [..., L + M] int32, indices into [text, latent]: text token m is m, latent
    token l is M + l.
  """
  segments = np.concatenate([text_segment, segment], axis=-1)
  frames = np.concatenate([np.full_like(text_segment, -1), frame], axis=-1)
  segments = np.where(segments == 0, np.iinfo(np.int32).max, segments)
  return np.lexsort((frames, segments), axis=-1).astype(np.int32)


def synced_units(
  rank: int, step: int, stages: int, units: int, group: int, limit: int
) -> tuple[int, ...]:
  """How the released code chooses the length of its training samples.

  Within a group of ranks every length comes up once, and a long sample at full
  resolution goes with short ones at the coarser stages, so that all ranks carry
  about as many tokens. Packing needs none of this; it is here to reproduce
  those runs.

  Args:
    rank: of the process.
    step: 0, 1, ...
    stages: K.
    units: of the longest sample in training.
    group: ranks that share the lengths out.
    limit: units that the clip at hand has.

  Returns:
    Units in the sample of each stage, coarsest first, its target included.
  """
  turn = (step + 1) % max(units // group, 1)
  full = rank % group + 1 + turn * group
  coarser = max(1 + units - full, 1)
  return (min(coarser, limit),) * (stages - 1) + (min(full, limit),)
