"""What was asked for against what was read: hits, rates and their intervals."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pyramid_jax.config import ConfigError
from pyramid_jax.data import shapes
from pyramid_jax.evals.shapes import Reading, Thing, outline_change, read

KEPT = ("background", "count", "shape", "color", "size")  # what lasts
MOTION = ("direction", "speed")
ATTRIBUTES = KEPT + MOTION
STRAY = 0.01  # share of a frame from which something is there unasked
Z95 = 1.959964  # of the normal distribution, two-sided


class Seen:
  """What training has shown: its captions, or None if they are not at hand."""

  def __init__(self, captions: Iterable[str] | None = None):
    self.captions = None if captions is None else set(captions)
    self.pairs = {p for text in self.captions or () for p in _pairs(text)}

  def combination(self, caption: str) -> str:
    """How much of a caption training has shown."""
    if self.captions is None:
      unseen = any(shapes.is_unseen(*pair) for pair in _pairs(caption))
    else:
      unseen = not self.pairs.issuperset(_pairs(caption))
    if unseen:
      return "unseen pair of shape and color"
    known = self.captions is not None and caption in self.captions
    return "seen caption" if known else "seen pairs"


def _pairs(caption: str) -> list[tuple[str, str]]:
  said = shapes.parse_caption(caption)["objects"]
  return [(o["shape"], o["color"]) for o in said]


@dataclasses.dataclass(frozen=True)
class Rate:
  """A share of clips with its 95% confidence interval (Wilson)."""

  hits: int
  n: int

  @property
  def interval(self) -> tuple[float, float]:
    if not self.n:
      return 0.0, 1.0
    p, z = self.hits / self.n, Z95 * Z95 / self.n
    middle = (p + z / 2) / (1 + z)
    half = Z95 * math.sqrt(p * (1 - p) / self.n + z / self.n / 4) / (1 + z)
    return max(middle - half, 0.0), min(middle + half, 1.0)

  def __str__(self) -> str:
    if not self.n:
      return "-"
    low, high = self.interval
    return f"{self.hits / self.n:.1%} ({low:.1%} to {high:.1%})"


def matched(
  wanted: Sequence[dict[str, str]], reading: Reading
) -> tuple[Thing | None, ...]:
  """What was read for each object asked for, in the order of most hits."""
  found: Sequence[Thing | None] = reading.things
  found = [*found, *[None] * (len(wanted) - len(found))]
  orders = itertools.permutations(found[: len(wanted) + 2], len(wanted))
  return max(orders, key=lambda order: sum(map(sum, _shown(wanted, order))))


def _shown(wanted, things) -> list[list[bool]]:
  """For each object, which of its attributes a thing has."""
  names = [a for a in ATTRIBUTES if a in wanted[0]]
  return [
    [getattr(thing, a, None) == o[a] for a in names]
    for o, thing in zip(wanted, things, strict=True)
  ]


def hits(asked: dict[str, Any], reading: Reading) -> dict[str, bool]:
  """Which attributes of a caption a clip shows, each for all its objects."""
  wanted = asked["objects"]
  names = [a for a in ATTRIBUTES if a in wanted[0]]
  shown = _shown(wanted, matched(wanted, reading))
  return {
    "background": reading.background == asked["background"],
    "count": reading.count == len(wanted),
    **dict(zip(names, map(all, zip(*shown, strict=True)), strict=True)),
  }


def leaves_after(
  wanted: dict[str, str],
  thing: Thing | None,
  pace: float,
  size: tuple[int, int],
) -> float:
  """Frames until an object that moves as asked touches the border.

  It starts where it was first seen, or in the middle if it was not; `size` is
  the frame's (height, width).
  """
  side, here = min(size), np.array(size[::-1]) / 2
  heading = np.array(shapes.DIRECTIONS[wanted["direction"]], float)
  speed = shapes.SPEEDS[wanted["speed"]] * pace * side / shapes.FPS
  velocity = speed * heading / math.hypot(*heading)
  if thing is not None:
    t = int(np.isfinite(thing.places).all(1).argmax())
    here = thing.places[t] - t * velocity
  reach = shapes.SIZES[wanted["size"]] * shapes.extent(wanted["shape"]) * side
  free = np.where(velocity > 0, size[::-1] - here, here) - reach
  moves = velocity != 0
  return float((free[moves] / np.abs(velocity[moves])).min())


def check_length(caption: str, frames: int, given: int = 0) -> dict[str, Any]:
  """What a caption says, if a clip of so many frames can show it.

  Raises:
    ConfigError: no caption of the dataset, or one of motion for too few frames.
  """
  asked = shapes.parse_caption(caption)
  needs = 3 if "speed" in asked["objects"][0] else 1
  if frames - given < needs:
    raise ConfigError(
      f"{caption!r} cannot be read from {frames - given} frames after the "
      f"{given} given ones; motion needs 3."
    )
  return asked


def score(
  caption: str, clip_THW3: np.ndarray, trained: int, given: int = 0
) -> dict[str, Any]:
  """Reads a clip and compares it with its caption, as JSON can hold it.

  A clip longer than the `trained` frames is read in windows of this length;
  `hits` are those of the first. A window is `inside` if all objects, moving as
  asked, would be whole in the frame for its first half at least, which is
  enough to read them. The `given` frames were not generated and are left out:
  objects of a window are compared with what those show, or else the first
  window, by color and shape; `given_kept` says whether the first window has the
  given background and objects all along, however they move. `hits` are what
  most frames show, `lasts` whether all objects are there in nearly all.

  Raises:
    ConfigError: no caption of the dataset, or one of motion for a single frame.
  """
  asked, made = check_length(caption, len(clip_THW3), given), clip_THW3[given:]
  moves = "speed" in asked["objects"][0]
  parts = [made[i : i + trained] for i in range(0, len(made), trained)]
  parts = [part for part in parts if len(part) >= max(3, trained // 2)] or [
    made
  ]
  pace, wanted = shapes.pace(trained), asked["objects"]
  readings = [read(part, pace) for part in parts]
  things = [matched(wanted, reading) for reading in readings]
  before = read(clip_THW3[:given], pace) if given else readings[0]
  origin = matched(wanted, before)
  windows = [hits(asked, reading) for reading in readings]
  lengths = np.array([len(part) for part in parts])
  middles = lengths.cumsum() - lengths / 2
  stays = [math.inf] if not moves else [
    leaves_after(o, thing, pace, made.shape[1:3])
    for o, thing in zip(wanted, things[0], strict=True)
  ]  # fmt: skip
  return {
    "prompt": caption,
    "frames": len(clip_THW3),
    "asked": asked,
    "read": [as_json(reading) for reading in readings],
    "hits": windows[0],
    "all_correct": all(windows[0].values()),
    "lasts": _last(things[0]),
    "windows": windows,
    "inside": [True, *(bool(t <= min(stays)) for t in middles[1:])],
    "color_change": [_change(_color_change, origin, w) for w in things],
    "shape_change": [_change(_shape_change, origin, w) for w in things],
    "given_kept": (
      _same(before, origin, readings[0], things[0]) if given else None
    ),
  }


def _same(before, origin, after, things) -> bool:
  """Whether two readings show the same but for motion."""
  alike = lambda names, a, b: all(
    getattr(a, name, None) == getattr(b, name, None) is not None
    for name in names
  )
  pairs = zip(origin, things, strict=True)
  return (
    alike(KEPT[:2], before, after)
    and all(alike(KEPT[2:], *pair) for pair in pairs)
    and _last(things)
  )


def _last(things: Iterable[Thing | None]) -> bool:
  """Whether objects that were asked for are there all along."""
  return all(thing is not None and thing.lasts for thing in things)


def as_json(reading: Reading) -> dict[str, Any]:
  """A reading without the places and outlines of its objects."""
  record = dataclasses.asdict(reading)
  for thing in record["things"]:
    del thing["places"], thing["outline"]
  return record


def summary(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
  """Rates of a set of scored clips; each is a `Rate`, or a mean."""
  records = list(records)
  right = lambda chosen: _rate([r["all_correct"] for r in chosen])
  groups = collections.defaultdict(list)
  for r in records:
    for kind in _classes(r):
      groups[kind].append(r)
  first = [r["read"][0] for r in records]
  things = [thing for reading in first for thing in reading["things"]]
  most = max(len(r["windows"]) for r in records)
  return {
    "attributes": {
      a: _rate([r["hits"][a] for r in records if a in r["hits"]])
      for a in ATTRIBUTES
      if any(a in r["hits"] for r in records)
    },
    "all correct": right(records),
    "all correct throughout": _rate(
      [r["all_correct"] and r["lasts"] for r in records]
    ),
    "classes": {kind: right(groups[kind]) for kind in sorted(groups)},
    "unasked": _rate([_unasked(r) for r in records]),
    "flicker": _mean([reading["flicker"] for reading in first]),
    "color drift": _mean([thing["color_drift"] for thing in things]),
    "shape drift": _mean([thing["shape_drift"] for thing in things]),
    "given kept": _rate(
      [r["given_kept"] for r in records if r["given_kept"] is not None]
    ),
    "windows": [_window(records, w) for w in range(most)],
  }


def _window(records, w: int) -> dict[str, Any]:
  """Of the clips that are so long and whose objects would still be inside."""
  long = [r for r in records if len(r["windows"]) > w]
  inside = [r for r in long if r["inside"][w]]
  kept = lambda chosen: [_kept(r, w) for r in chosen]
  right = [all(r["windows"][w].values()) for r in inside]
  changes = lambda name: [r[name][w] for r in inside if r[name][w] is not None]
  return {
    "kept": _rate(kept(inside)),
    "still": _rate(kept(r for r in inside if _kept(r, 0))),
    "all correct": _rate(right),
    "color change": _mean(changes("color_change")),
    "color change n": len(changes("color_change")),
    "shape change": _mean(changes("shape_change")),
  }


def _change(measure, first, later) -> float | None:
  """Mean change of the objects of two windows; None if no object is in both.

  (A clip that has lost its object has none that could have kept its colour.)
  """
  pairs = [
    measure(a, b)
    for a, b in zip(first, later, strict=True)
    if a is not None and b is not None
  ]
  return float(np.mean(pairs)) if pairs else None


def _color_change(a: Thing, b: Thing) -> float:
  """Grey levels between two colours."""
  return float(np.abs(np.subtract(a.ink, b.ink)).mean())


def _shape_change(a: Thing, b: Thing) -> float:
  """Share of the outline that changed, whatever the size."""
  return outline_change(a.outline, b.outline)


def _rate(found: Sequence[bool]) -> Rate:
  return Rate(sum(found), len(found))


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values)) if values else math.nan


def _kept(record: dict[str, Any], window: int) -> bool:
  """Whether a window shows the object that was asked for, however it moves."""
  return all(record["windows"][window][a] for a in KEPT)


def _unasked(record: dict[str, Any]) -> bool:
  """Whether something is there that the caption does not name."""
  seen = record["read"][0]
  more = len(seen["things"]) > len(record["asked"]["objects"])
  return more or seen["unasked"] > STRAY


def _classes(record: dict[str, Any]) -> Iterable[str]:
  """The prompt classes of a clip."""
  asked, objects = record["asked"], record["asked"]["objects"]
  yield f"combination: {record['combination']}"
  yield f"objects: {len(objects)}"
  yield f"background: {asked['background']}"
  for name in ("shape", "color", "size", *MOTION):
    for value in {o[name] for o in objects if name in o}:
      yield f"{name}: {value}"
