"""Which pixels of a clip of coloured shapes belong to which object.

A pixel at an edge is a blend, background + cover * (ink - background), and so
is one that a VAE has blurred: what an object covers is measured in parts of
pixels along the line between both colours.

Legend: T frames, H W pixels, P pixels of a patch.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage, optimize

from pyramid_jax.data import shapes

NAMES = tuple(shapes.COLORS)
COLORS = np.array(list(shapes.COLORS.values()), np.float32)
NEAR = 60.0  # grey levels within which two colours are the same
STANDS_OUT = 48.0  # grey levels from which a pixel is not the background
CLEARLY = 0.67  # how much nearer than the next colour the named one must be
FAR = 75.0  # grey levels from a colour beyond which it is not named
FAINT = 0.7  # of its colour that an object must have, the rest is background
# Least area of an object, of the shorter side squared: a quarter of the
# smallest that is drawn. Specks are smaller.
LEAST_AREA = 0.01
PART = 0.2  # share of a patch from which another colour is another object
JUMP = 0.25  # shorter sides that are as unlikely a step as another colour


@dataclasses.dataclass(frozen=True)
class Region:
  """What one object covers of one frame.

  Attributes:
    color: name of its colour, or None.
    ink: [3] its colour away from the edges.
    mask: [H, W] bool, pixels that it covers by half or more.
    centre: (x, y) in pixels.
    cut: whether it reaches the border of the frame.
  """

  color: str | None
  ink: np.ndarray
  mask: np.ndarray
  centre: np.ndarray
  cut: bool


def background_of(clip_THW3: np.ndarray) -> tuple[str | None, np.ndarray]:
  """Name of the background, if one is meant clearly, and its colour [T, 3].

  Objects cover less than half of a frame, so the median is the background.
  """
  rgb_T3 = np.median(clip_THW3, axis=(1, 2)).astype(np.float32)
  table = np.array(list(shapes.BACKGROUNDS.values()), np.float32)
  away = np.linalg.norm(rgb_T3[:, None] - table, axis=-1)
  names = tuple(shapes.BACKGROUNDS)
  near = away.min(1) < NEAR
  return majority(
    [names[i] if ok else None for i, ok in zip(away.argmin(1), near,
                                               strict=True)]
  ), rgb_T3  # fmt: skip


def majority(names: Sequence[str | None]) -> str | None:
  """The name that three quarters of the frames agree on."""
  best = max(set(names), key=names.count, default=None)
  return best if best and names.count(best) >= 0.75 * len(names) else None


def ink_of(pixels_P3: np.ndarray, background_3: np.ndarray) -> np.ndarray:
  """An object's colour [3] in the middle, where it covers pixels whole."""
  height = np.linalg.norm(pixels_P3 - background_3, axis=-1)
  core = height >= 0.8 * np.quantile(height, 0.9)
  return np.median(pixels_P3[core], axis=0)


def cover_of(pixels: np.ndarray, ink_3: np.ndarray, background_3: np.ndarray):
  """How much of the pixels [..., 3] an object covers; noise may exceed 0..1."""
  line = ink_3 - background_3
  return (pixels - background_3) @ line / max(line @ line, 1.0)


def distances(pixels_P3: np.ndarray, background_3: np.ndarray) -> np.ndarray:
  """Grey levels to each of `NAMES`, [P, 5]; a little background is allowed."""
  away = np.empty((len(pixels_P3), len(COLORS)), np.float32)
  for i, color in enumerate(COLORS):
    part = np.clip(cover_of(pixels_P3, color, background_3), FAINT, 1.1)
    blend = background_3 + part[:, None] * (color - background_3)
    away[:, i] = np.linalg.norm(pixels_P3 - blend, axis=-1)
    if np.linalg.norm(color - background_3) < NEAR:
      away[:, i] = np.inf
  return away


def color_of(ink_3: np.ndarray, background_3: np.ndarray) -> str | None:
  """The name of a colour, if it is clearly nearer than the others."""
  away = distances(ink_3[None], background_3)[0]
  first, second = np.sort(away)[:2]
  clear = first < CLEARLY * second and first < FAR
  return NAMES[int(away.argmin())] if clear else None


def regions_of(
  frame_HW3: np.ndarray, background_3: np.ndarray
) -> tuple[list[Region], np.ndarray]:
  """The objects of a frame, and which pixels stand out, [H, W] bool."""
  side = min(frame_HW3.shape[:2])
  frame = frame_HW3.astype(np.float32)
  stands_out = np.linalg.norm(frame - background_3, axis=-1) > STANDS_OUT
  least = LEAST_AREA * side**2
  found = []
  for patch in patches(stands_out, least):
    for part in _split(frame, patch, background_3, least):
      region = _region(frame, part, background_3)
      if region.mask.sum() >= least:
        found.append(region)
  return found, stands_out


def patches(mask_HW: np.ndarray, least: float) -> Iterator[np.ndarray]:
  """Connected patches of at least this area, as masks."""
  label, _ = ndimage.label(mask_HW, np.ones((3, 3)))
  sizes = np.bincount(label.ravel())
  for i in range(1, len(sizes)):
    if sizes[i] >= least:
      yield label == i


def _split(frame, patch_HW, background_3, least) -> list[np.ndarray]:
  """A patch, or its parts if two objects of other colours touch in it."""
  pixels = frame[patch_HW]
  height = np.linalg.norm(pixels - background_3, axis=-1)
  high = height > 0.5 * np.quantile(height, 0.9)
  nearest = distances(pixels, background_3).argmin(1)
  counts = np.bincount(nearest[high], minlength=len(COLORS))
  kinds = np.flatnonzero(counts >= max(PART * high.sum(), least))
  parts, inks = [], []
  for kind in kinds:
    part = np.zeros_like(patch_HW)
    part[patch_HW] = nearest == kind
    large = list(patches(part, 0.8 * part.sum()))
    if large:  # what is scattered is no object
      parts.append(large[0])
      inks.append(ink_of(frame[large[0]], background_3))
  if len(parts) < 2:
    return [patch_HW]
  apart = min(
    np.linalg.norm(a - b) for i, a in enumerate(inks) for b in inks[:i]
  )
  return parts if apart > 2 * NEAR else [patch_HW]


def _region(frame, mask_HW, background_3) -> Region:
  pixels, mask = frame[mask_HW], np.zeros_like(mask_HW)
  ink = ink_of(pixels, background_3)
  mask[mask_HW] = cover_of(pixels, ink, background_3) >= 0.5
  if not mask.any():  # a mixture, in the middle as the background is
    mask = mask_HW
  y, x = np.nonzero(mask)
  height, width = mask.shape
  cut = min(x.min(), y.min()) == 0
  cut |= x.max() == width - 1 or y.max() == height - 1
  centre = np.array([x.mean(), y.mean()]) + 0.5
  return Region(color_of(ink, background_3), ink, mask, centre, bool(cut))


def follow(
  frames: Sequence[Sequence[Region]], count: int, side: int
) -> list[list[Region | None]]:
  """`count` tracks through the frames: a region a frame, or None.

  A region continues the track whose last place and colour are nearest.
  """
  if not count:
    return []
  first = next(i for i, found in enumerate(frames) if len(found) == count)
  tracks = [[None] * len(frames) for _ in range(count)]
  for order in (range(first, len(frames)), range(first - 1, -1, -1)):
    last = list(frames[first])
    for t in order:
      cost = np.array([[_step(a, b, side) for b in frames[t]] for a in last])
      pairs = optimize.linear_sum_assignment(cost) if frames[t] else ([], [])
      for i, j in zip(*pairs, strict=True):
        tracks[i][t] = last[i] = frames[t][j]
  return tracks


def _step(a: Region, b: Region, side: int) -> float:
  way = np.linalg.norm(a.centre - b.centre) / side
  return float(way / JUMP + (a.color != b.color))
