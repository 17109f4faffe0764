"""Reads from a clip of the embedded dataset what its caption says.

Image analysis alone, nothing learned: what is read from a generated clip can be
compared with what was asked for. What the picture does not show clearly is read
as None, never guessed.

Legend: T frames, H W pixels, G places a side of the grid on which outlines are
compared.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, stats

from pyramid_jax.data import shapes
from pyramid_jax.evals import shapes_regions as regions

GRID = np.linspace(-1.1, 1.1, 45)  # in square roots of the area
BLURS = (0.0, 0.08, 0.16, 0.24)  # standard deviations along y and x, likewise
UNLIKE = 0.16  # most that an outline may differ from its shape's
CLEAR = 1.5  # times more that it must differ from the next shape's
LIKE = 0.003  # difference below which noise decides between two shapes
SIZE_SLACK = 1.2  # factor between a size or speed and that of its name
SPEED_SLACK = 1.65
OFF_AXIS = math.cos(math.radians(30))
WOBBLE = 0.05  # shorter sides that a straight way may deviate
SEEN = 0.6  # share of frames in which an object must be seen to be read
LASTS = 0.9  # and to have been there all along


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object of a clip; None where the clip does not show it clearly.

  Attributes:
    shape, color, size, direction, speed: words of captions.
    radius: shorter sides of the frame; nan if the shape is like none.
    velocity: (x, y) in shorter sides a second.
    ink: (r, g, b) its colour.
    places: [T, 2] centres in pixels, nan where it was not seen.
    outline: [G, G] cover around its centre, in square roots of its area.
    color_drift: grey levels between the colours of its first and last third.
    shape_drift: share of the outline that changed between them, 0..1.
    lasts: whether it is there all along: seen in nearly all frames, and in the
      first and the last third of them with the shape and color it is read as.
  """

  shape: str | None
  color: str | None
  size: str | None
  direction: str | None
  speed: str | None
  radius: float
  velocity: tuple[float, float]
  ink: tuple[float, float, float]
  places: np.ndarray
  outline: np.ndarray
  color_drift: float
  shape_drift: float
  lasts: bool


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a clip shows.

  Attributes:
    background: word of captions, or None.
    count: number of objects, or None if it changes all the time.
    things: the objects.
    flicker: mean absolute change of the background from a frame to the next,
      in grey levels.
    unasked: share of the frame, at its most, that stands out from the
      background and touches no object.
  """

  background: str | None
  count: int | None
  things: tuple[Thing, ...]
  flicker: float
  unasked: float


def read(clip_THW3: np.ndarray, pace: float | None = None) -> Reading:
  """Reads a clip uint8 [T, H, W, 3] at 24 frames a second.

  `pace` is the one of the captions' speeds (`data.shapes.pace` of the length of
  the training clips); by default that of a clip of this length.
  """
  T, H, W, _ = clip_THW3.shape
  pace = shapes.pace(T) if pace is None else pace
  name, rgb_T3 = regions.background_of(clip_THW3)
  frames, stands_out = zip(
    *map(regions.regions_of, clip_THW3, rgb_T3), strict=True
  )
  counts = np.bincount([len(found) for found in frames])
  count = int(counts.argmax())
  tracks = regions.follow(frames, count, min(H, W))
  taken = np.zeros((T, H, W), bool)
  for track in tracks:
    for t, region in enumerate(track):
      if region is not None:
        taken[t] |= region.mask
  near = _grow(taken, max(2, round(0.04 * min(H, W))))
  still = ~(near[1:] | near[:-1])
  change = np.abs(np.diff(clip_THW3.astype(np.float32), axis=0)).mean(-1)
  return Reading(
    background=name,
    count=count if counts[count] >= SEEN * T else None,
    things=tuple(
      _thing(clip_THW3, rgb_T3, track, taken, pace) for track in tracks
    ),
    flicker=float(change[still].mean()) if still.any() else 0.0,
    unasked=max(map(_unasked, taken, stands_out)),
  )


def _unasked(taken_HW: np.ndarray, stands_out_HW: np.ndarray) -> float:
  """Share of a frame that stands out without touching an object."""
  mine = ndimage.binary_propagation(
    taken_HW & stands_out_HW, mask=stands_out_HW
  )
  return float((stands_out_HW & ~mine).mean())


def _grow(mask_THW: np.ndarray, by: int) -> np.ndarray:
  """Masks made larger by some pixels in space."""
  return ndimage.maximum_filter(mask_THW, (1, 2 * by + 1, 2 * by + 1))


def _thing(clip, rgb_T3, track, taken, pace) -> Thing:
  """Reads one tracked object."""
  T, H, W, _ = clip.shape
  side = min(H, W)
  seen = [t for t, region in enumerate(track) if region is not None]
  ink = np.median([track[t].ink for t in seen], axis=0)
  outlines = {
    t: outline_of(
      clip[t], ink, rgb_T3[t], track[t].mask, taken[t] & ~track[t].mask
    )
    for t in seen
  }
  places = np.full((T, 2), np.nan)
  for t in seen:
    places[t] = outlines[t].centre
  whole = [t for t in seen if not track[t].cut]
  whole = whole if len(whole) >= max(1, 0.2 * len(seen)) else seen
  kept = [outlines[t] for t in whole]
  outline, maybe = _shape(kept)
  colors = [track[t].color for t in seen]
  color = regions.majority(colors)
  radii = [radius / side for radius in maybe.values()]
  sizes = {nearest(r, shapes.SIZES, SIZE_SLACK) for r in radii}
  often = len(seen) >= SEEN * T
  velocity, straight = _motion(places, whole, side)
  known = lambda name, ok=True: name if ok and often else None
  ends = [_shape(part) for part in _thirds(kept)]
  return Thing(
    shape=known(*maybe) if len(maybe) == 1 else None,
    color=known(color),
    size=known(*sizes) if len(sizes) == 1 else None,
    direction=known(_direction(velocity, pace), straight),
    speed=known(_speed(velocity, pace), straight),
    radius=float(np.mean(radii)) if radii else math.nan,
    velocity=velocity,
    ink=tuple(map(float, ink)),
    places=places,
    outline=outline,
    color_drift=_color_drift([track[t].ink for t in seen]),
    shape_drift=outline_change(*(picture for picture, _ in ends)),
    lasts=len(seen) >= LASTS * T
    and all(maybe.keys() & names.keys() for _, names in ends)
    and all(regions.majority(part) == color for part in _thirds(colors)),
  )


@dataclasses.dataclass(frozen=True)
class Outline:
  """What an object covers, its size and place taken out.

  Attributes:
    area: pixels, parts of pixels among them.
    centre: (x, y) in pixels, of mass.
    picture: [G, G] cover around the centre, in square roots of the area.
  """

  area: float
  centre: np.ndarray
  picture: np.ndarray


def outline_of(frame_HW3, ink_3, background_3, mask_HW, others_HW) -> Outline:
  """Measures an object in one frame; noise of both signs around it cancels."""
  side = min(mask_HW.shape)
  pad = max(3, round(0.05 * side))
  y, x = np.nonzero(mask_HW)
  top, left = max(y.min() - pad, 0), max(x.min() - pad, 0)
  box = np.s_[top : y.max() + pad + 1, left : x.max() + pad + 1]
  cover = regions.cover_of(frame_HW3[box], ink_3, background_3)
  near = ndimage.binary_dilation(others_HW[box], iterations=max(1, side // 32))
  cover = np.where(near & ~mask_HW[box], 0, np.clip(cover, -0.5, 1.3))
  if cover.sum() <= 0:  # of no colour that stands out: its mask is all there is
    cover = mask_HW[box].astype(float)
  area = max(cover.sum(), 0.5 * mask_HW.sum())
  cy, cx = ((np.indices(cover.shape) + 0.5) * cover).sum((1, 2)) / cover.sum()
  scale = math.sqrt(area)
  at = np.meshgrid(cy + GRID * scale - 0.5, cx + GRID * scale - 0.5,
                   indexing="ij")  # fmt: skip
  picture = ndimage.map_coordinates(cover, at, order=1)
  return Outline(float(area), np.array([left + cx, top + cy]), picture)


def _shape(
  outlines: Sequence[Outline],
) -> tuple[np.ndarray, dict[str, float]]:
  """The usual outline [G, G] of several; what it may be, see `shapes_of`."""
  picture = np.median([o.picture for o in outlines], axis=0)
  return picture, shapes_of(
    picture, float(np.median([o.area for o in outlines]))
  )


@functools.cache
def area_of(shape: str) -> float:
  """Area of a shape of radius 1."""
  outline = shapes.SHAPES[shape]
  if shape == "circle":
    return math.pi * outline**2
  x, y = outline.T
  return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@functools.cache
def templates() -> dict[str, list[tuple[np.ndarray, float]]]:
  """For each shape, sharp and blurred: its picture, and measured / true area.

  They are measured as the objects of a clip are, so that what blur does to the
  measurement is in both.
  """
  size, root = 128, 40  # pixels of the canvas, square root of the area
  grid = np.stack(np.meshgrid(*[np.arange(size) + 0.5 - size / 2] * 2), -1)
  result = {}
  for shape in shapes.SHAPES:
    radius = root / math.sqrt(area_of(shape))
    distance = shapes.signed_distance(shape, grid / radius) * radius
    sharp = np.clip(0.5 - distance, 0, 1)
    result[shape] = []
    for blur in itertools.product(BLURS, BLURS):
      blurred = ndimage.gaussian_filter(sharp, root * np.array(blur))
      frame = np.repeat(255 * blurred[..., None], 3, -1)
      dark = np.zeros(3)
      ink = regions.ink_of(frame[blurred > 0.2], dark)
      mask = blurred >= 0.5 * ink[0] / 255
      found = outline_of(frame, ink, dark, mask, np.zeros_like(mask))
      result[shape].append((found.picture, found.area / root**2))
  return result


def shapes_of(picture_GG: np.ndarray, area: float) -> dict[str, float]:
  """What an outline may be: name -> radius in pixels, none if it is like none.

  One name if it is clearly that shape. The radius is without blur's part in it.
  """
  unlike = {
    name: min(
      (((picture_GG - t) ** 2).sum() / (t**2).sum(), gain) for t, gain in kinds
    )
    for name, kinds in templates().items()
  }
  least = min(unlike.values())[0]
  limit = max(CLEAR * least, least + LIKE)
  return {
    name: math.sqrt(area / gain / area_of(name))
    for name, (rest, gain) in unlike.items()
    if rest <= limit and rest < UNLIKE
  }


def nearest(value: float, table: dict[str, float], slack: float) -> str | None:
  """The name whose value is within a factor of this one."""
  name = min(table, key=lambda n: abs(math.log(max(value, 1e-9) / table[n])))
  ratio = max(value, 1e-9) / table[name]
  return name if 1 / slack < ratio < slack else None


def _motion(places_T2, frames, side) -> tuple[tuple[float, float], bool]:
  """Velocity in shorter sides a second, and whether the way is straight."""
  t = [f for f in frames if np.isfinite(places_T2[f]).all()]
  if len(t) < 3:
    return (0.0, 0.0), False
  fits = [stats.theilslopes(places_T2[t, i], t) for i in range(2)]
  line = np.array([[f.slope * n + f.intercept for f in fits] for n in t])
  off = np.sqrt(((places_T2[t] - line) ** 2).sum(1).mean()) / side
  x, y = (f.slope * shapes.FPS / side for f in fits)
  way = math.hypot(x, y) * (t[-1] - t[0]) / shapes.FPS
  return (float(x), float(y)), off < WOBBLE * max(1, way / shapes.REACH)


def _speed(velocity, pace: float) -> str | None:
  return nearest(math.hypot(*velocity) / pace, shapes.SPEEDS, SPEED_SLACK)


def _direction(velocity, pace: float) -> str | None:
  """The direction that the way is within 30 degrees of."""
  speed = math.hypot(*velocity)
  if speed < min(shapes.SPEEDS.values()) * pace / 3:
    return None
  toward = {
    name: np.dot(velocity, axis) / speed / math.hypot(*axis)
    for name, axis in shapes.DIRECTIONS.items()
  }
  best = max(toward, key=toward.get)
  return best if toward[best] > OFF_AXIS else None


def _thirds(values: Sequence) -> tuple[Sequence, Sequence]:
  """The first and the last of them; at least one each."""
  n = max(len(values) // 3, 1)
  return values[:n], values[-n:]


def _color_drift(inks) -> float:
  first, last = (np.median(part, axis=0) for part in _thirds(inks))
  return float(np.abs(first - last).mean())


def outline_change(first_GG: np.ndarray, last_GG: np.ndarray) -> float:
  """Share of what two outlines cover together that only one of them covers."""
  first, last = (np.clip(x, 0, 1) for x in (first_GG, last_GG))
  union = np.maximum(first, last).sum()
  return float(1 - np.minimum(first, last).sum() / union) if union else 1.0
