"""The embedded dataset: captioned clips of coloured shapes, drawn in numpy.

What a caption says is true of its clip: colours are far apart, an object
differs in colour from the background and from the other object, moves in a
straight line, stays inside the frame and covers no other object. One object
alone passes near the middle, so that its caption nearly tells where it is.

Split: the pair of the i-th shape and the i-th colour is *unseen*. No training
clip shows an unseen pair, whatever the seed, though both of its words occur
there with other partners. A held-out clip of even index shows an unseen pair,
one of odd index only seen pairs, at places and speeds drawn anew.

Legend: T frames, H W pixels, V vertices.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from pyramid_jax.config import ConfigError

FPS = 24
SPLITS = ("train", "heldout")
# Outlines in units of the radius about their centre of mass, y down.
_A, _B = 1.1, 0.38
SHAPES = {
  "circle": 1.0,
  "square": 0.9 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
  "triangle": 1.35 * np.array([(0, -1), (0.866, 0.5), (-0.866, 0.5)]),
  "cross": np.array(
    [(-_B, -_A), (_B, -_A), (_B, -_B), (_A, -_B), (_A, _B), (_B, _B)]
    + [(_B, _A), (-_B, _A), (-_B, _B), (-_A, _B), (-_A, -_B), (-_B, -_B)]
  ),
}
COLORS = {
  "red": (236, 28, 28),
  "green": (28, 204, 64),
  "blue": (38, 84, 222),
  "yellow": (250, 222, 28),
  "white": (246, 246, 246),
}
BACKGROUNDS = {
  "black": (14, 14, 16),
  "gray": (124, 124, 124),
  "blue": COLORS["blue"],
}
SIZES = {"small": 0.14, "large": 0.21}  # radius, in shorter sides of the frame
SPEEDS = {"slowly": 0.16, "quickly": 0.48}  # shorter sides a second
DIRECTIONS = {
  "left": (-1, 0),
  "right": (1, 0),
  "up": (0, -1),
  "down": (0, 1),
}
JITTER = 0.08  # relative, of radius and speed
REACH = 0.32  # longest way, in shorter sides; in a long clip all move slower
WANDER = 0.1  # how far from the middle one object may pass, in shorter sides
MARGIN = 0.02  # kept free along the border, in shorter sides
RENDERER = 2  # to be raised when the pixels of an (index, seed) change


@dataclasses.dataclass(frozen=True)
class Example:
  """A clip with its caption and the truth behind it.

  Attributes:
    id: unique in a dataset.
    caption: one sentence without a full stop.
    attributes: background, unseen (bool) and objects, each with shape, color,
      size, direction, speed, radius [pixels], start (x, y) [pixels, centre of
      mass in the first frame] and velocity (x, y) [pixels a frame].
    video: [T, H, W, 3] uint8.
  """

  id: str
  caption: str
  attributes: dict[str, Any]
  video: np.ndarray


def render(
  index: int,
  seed: int = 0,
  frames: int = 17,
  height: int = 64,
  width: int = 64,
  split: str = "train",
  two_objects: float = 0.0,
) -> Example:
  """Draws one clip at 24 fps, a pure function of its arguments.

  Raises:
    ConfigError: frames is not 8 n + 1, or a side is under 32 pixels.
  """
  check_size(frames, height, width)
  rng = np.random.default_rng([seed, SPLITS.index(split), index])
  count = 1 + int(rng.random() < two_objects)
  unseen = split == "heldout" and index % 2 == 0
  while True:  # about one scene in three is kept; unseen pairs are rarer
    scene = _draw_scene(rng, count, frames, height, width)
    if scene["unseen"] == unseen and _unambiguous(scene, frames):
      break
  video = _paint(scene, frames, height, width)
  name = f"shapes-{seed}-{split}-{index:06d}"
  return Example(name, caption(scene, frames), scene, video)


def caption(scene: dict[str, Any], frames: int) -> str:
  """Says what a scene shows; a single frame does not move."""
  parts = []
  for o in scene["objects"]:
    words = f"a {o['size']} {o['color']} {o['shape']}"
    if frames > 1:
      words += f" moves {o['speed']} {o['direction']}"
    parts.append(words)
  joined = (" while " if frames > 1 else " and ").join(parts)
  return f"{joined} on a {scene['background']} background"


def parse_caption(text: str) -> dict[str, Any]:
  """What a caption says: background and objects, the inverse of `caption`.

  Raises:
    ConfigError: not a sentence that `caption` can write.
  """
  one = lambda name, table: f"(?P<{name}>{'|'.join(table)})"
  background = one("background", BACKGROUNDS)
  scene = re.fullmatch(rf"(.+) on a {background} background", text.strip())
  item = re.compile(
    rf"a {one('size', SIZES)} {one('color', COLORS)} {one('shape', SHAPES)}"
    rf"( moves {one('speed', SPEEDS)} {one('direction', DIRECTIONS)})?"
  )
  found = [
    item.fullmatch(part)
    for part in (re.split(" while | and ", scene[1]) if scene else [])
  ]
  # all of them move, or it is a picture, in which none does
  if not found or not all(found) or len({not x["speed"] for x in found}) > 1:
    raise ConfigError(
      f"{text!r} is no caption of the embedded dataset, such as "
      "'a small red square moves slowly left on a black background'."
    )
  said = [{k: v for k, v in x.groupdict().items() if v} for x in found]
  return {"background": scene["background"], "objects": said}


def words() -> tuple[str, ...]:
  """Every word that a caption can contain, sorted."""
  tables = (SHAPES, COLORS, BACKGROUNDS, SIZES, SPEEDS, DIRECTIONS)
  text = " ".join(word for table in tables for word in table)
  return tuple(
    sorted({*text.split(), *["a", "moves", "while", "and", "on", "background"]})
  )


def check_size(frames: int, height: int, width: int) -> None:
  if frames < 1 or frames % 8 != 1:
    near = max(round((frames - 1) / 8), 0) * 8 + 1
    raise ConfigError(f"frames {frames} is not 8 n + 1; nearest: {near}.")
  if min(height, width) < 32:
    raise ConfigError(
      f"size {height} x {width} is too small to tell shapes apart; the shorter "
      "side must be at least 32."
    )


def _draw_scene(
  rng: np.random.Generator, count: int, frames: int, height: int, width: int
) -> dict[str, Any]:
  """Draws a background and objects, each inside the frame all the time."""
  side = min(height, width)
  objects = []
  for _ in range(count):
    pick = lambda table: list(table)[rng.integers(len(table))]
    shape, color, size = pick(SHAPES), pick(COLORS), pick(SIZES)
    direction, speed = pick(DIRECTIONS), pick(SPEEDS)
    stretch = 1 + JITTER * rng.uniform(-1, 1, 2)
    radius = side * SIZES[size] * stretch[0]
    heading = np.array(DIRECTIONS[direction]) / math.hypot(
      *DIRECTIONS[direction]
    )
    velocity = heading * SPEEDS[speed] * pace(frames) * stretch[1] * side / FPS
    way = velocity * (frames - 1)
    free = extent(shape) * radius + MARGIN * side
    low = free - np.minimum(way, 0)
    high = np.array([width, height]) - free - np.maximum(way, 0)
    if count == 1:  # half of its way is in the middle of the frame, or nearly
      middle = np.array([width, height]) / 2 - way / 2
      start = np.clip(middle + side * WANDER * rng.uniform(-1, 1, 2), low, high)
    else:
      start = rng.uniform(low, high)
    objects.append(
      {
        "shape": shape,
        "color": color,
        "size": size,
        "direction": direction,
        "speed": speed,
        "radius": round(float(radius), 4),
        "start": start.round(4).tolist(),
        "velocity": velocity.round(6).tolist(),
      }
    )
  background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
  unseen = any(is_unseen(o["shape"], o["color"]) for o in objects)
  return {"background": background, "unseen": unseen, "objects": objects}


def pace(frames: int) -> float:
  """What speeds are multiplied by in clips of this length."""
  seconds = (frames - 1) / FPS
  return min(1.0, REACH / (SPEEDS["quickly"] * seconds)) if seconds else 1.0


def is_unseen(shape: str, color: str) -> bool:
  """Whether training never shows this pair."""
  return list(SHAPES).index(shape) == list(COLORS).index(color)


def extent(shape: str) -> float:
  """Largest distance from the centre along x or y, in radii."""
  return float(np.abs(SHAPES[shape]).max())


def _unambiguous(scene: dict[str, Any], frames: int) -> bool:
  """Whether all colours differ and no object ever touches another."""
  objects = scene["objects"]
  colors = [scene["background"], *(o["color"] for o in objects)]
  if len(set(colors)) < len(colors):
    return False
  if len(objects) == 1:
    return True
  centres = [positions(o, frames) for o in objects]
  apart = np.abs(centres[0] - centres[1]).max(-1)  # boxes must not overlap
  return (
    apart.min() > sum(extent(o["shape"]) * o["radius"] for o in objects) + 1
  )


def positions(item: dict[str, Any], frames: int) -> np.ndarray:
  """Centre of an object in each frame, [T, 2] as (x, y) pixels."""
  return np.array(item["start"]) + np.outer(range(frames), item["velocity"])


def _paint(
  scene: dict[str, Any], frames: int, height: int, width: int
) -> np.ndarray:
  """Draws a scene; an edge pixel gets the share that the object covers."""
  canvas = np.empty((frames, height, width, 3), np.float32)
  canvas[:] = BACKGROUNDS[scene["background"]]
  grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5
  for item in scene["objects"]:
    color = np.array(COLORS[item["color"]], np.float32)
    reach = extent(item["shape"]) * item["radius"] + 1
    for frame, centre in zip(canvas, positions(item, frames), strict=True):
      x, y = np.maximum(np.floor(centre - reach), 0).astype(int)
      u, v = np.ceil(centre + reach).astype(int)
      inside = (grid[y:v, x:u] - centre) / item["radius"]
      distance = signed_distance(item["shape"], inside) * item["radius"]
      cover = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
      frame[y:v, x:u] += cover * (color - frame[y:v, x:u])
  return np.rint(canvas).astype(np.uint8)


def signed_distance(shape: str, points: np.ndarray) -> np.ndarray:
  """Distance of points [..., 2] to the outline, negative inside, in radii."""
  outline = SHAPES[shape]
  if shape == "circle":
    return np.hypot(points[..., 0], points[..., 1]) - outline
  end = np.roll(outline, -1, axis=0)
  edge = end - outline  # [V, 2]
  away = points[..., None, :] - outline  # [..., V, 2]
  along = np.einsum("...vc,vc->...v", away, edge) / (edge * edge).sum(-1)
  nearest = away - np.clip(along, 0, 1)[..., None] * edge
  distance = np.sqrt((nearest * nearest).sum(-1).min(-1))
  # a ray to the right crosses the outline an odd number of times from inside
  y, rises = points[..., None, 1], edge[:, 1] > 0
  between = np.where(
    rises,
    (outline[:, 1] <= y) & (y < end[:, 1]),
    (end[:, 1] <= y) & (y < outline[:, 1]),
  )
  side = edge[:, 0] * away[..., 1] - edge[:, 1] * away[..., 0]
  crossings = (between & ((side > 0) != rises)).sum(-1)
  return np.where(crossings % 2 == 1, -distance, distance)
