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
from pyramid_jax.evals.shapes import Reading, Thing, read

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
    low, high = self.interval
    rate = self.hits / self.n if self.n else math.nan
    return f"{rate:.1%} ({low:.1%} to {high:.1%})"


def hits(asked: dict[str, Any], reading: Reading) -> dict[str, bool]:
  """Which attributes of a caption a clip shows, each for all its objects.

  Objects are matched in the order that gives most hits.
  """
  wanted = asked["objects"]
  names = [a for a in ("shape", "color", "size", *MOTION) if a in wanted[0]]
  found: Sequence[Thing | None] = reading.things
  found = [*found, *[None] * (len(wanted) - len(found))]
  matches = (
    [
      [getattr(thing, a, None) == o[a] for a in names]
      for o, thing in zip(wanted, order, strict=True)
    ]
    for order in itertools.permutations(found[: len(wanted) + 2], len(wanted))
  )
  best = max(matches, key=lambda rows: sum(map(sum, rows)))
  return {
    "background": reading.background == asked["background"],
    "count": reading.count == len(wanted),
    **dict(zip(names, map(all, zip(*best, strict=True)), strict=True)),
  }


def score(
  caption: str, clip_THW3: np.ndarray, trained: int, given: int = 0
) -> dict[str, Any]:
  """Reads a clip and compares it with its caption, as JSON can hold it.

  A clip longer than the `trained` frames is read in windows of this length;
  `hits` are those of the first. The `given` frames were not generated and are
  left out.

  Raises:
    ConfigError: no caption of the dataset, or one of motion for a single frame.
  """
  asked = shapes.parse_caption(caption)
  made = clip_THW3[given:]
  moves = "speed" in asked["objects"][0]
  if len(made) < (3 if moves else 1):
    raise ConfigError(
      f"{caption!r} cannot be read from {len(made)} frames after the {given} "
      "given ones; motion needs 3."
    )
  parts = [made[i : i + trained] for i in range(0, len(made), trained)]
  parts = [part for part in parts if len(part) >= max(3, trained // 2)] or [
    made
  ]
  readings = [read(part, shapes.pace(trained)) for part in parts]
  windows = [hits(asked, reading) for reading in readings]
  return {
    "prompt": caption,
    "frames": len(clip_THW3),
    "asked": asked,
    "read": [as_json(reading) for reading in readings],
    "hits": windows[0],
    "all_correct": all(windows[0].values()),
    "windows": windows,
  }


def as_json(reading: Reading) -> dict[str, Any]:
  """A reading without the places of its objects."""
  record = dataclasses.asdict(reading)
  for thing in record["things"]:
    del thing["places"]
  return record


def summary(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
  """Rates of a set of scored clips; each is a `Rate`, or a mean."""
  records = list(records)
  rate = lambda found: Rate(sum(found), len(found))
  right = lambda chosen: rate([r["all_correct"] for r in chosen])
  groups = collections.defaultdict(list)
  for r in records:
    for kind in _classes(r):
      groups[kind].append(r)
  first = [r["read"][0] for r in records]
  things = [thing for reading in first for thing in reading["things"]]
  mean = lambda values: float(np.mean(values)) if values else math.nan
  most = max(len(r["windows"]) for r in records)
  return {
    "attributes": {
      a: rate([r["hits"][a] for r in records if a in r["hits"]])
      for a in ATTRIBUTES
      if any(a in r["hits"] for r in records)
    },
    "all correct": right(records),
    "classes": {kind: right(groups[kind]) for kind in sorted(groups)},
    "unasked": rate([_unasked(r) for r in records]),
    "flicker": mean([reading["flicker"] for reading in first]),
    "color drift": mean([thing["color_drift"] for thing in things]),
    "shape drift": mean([thing["shape_drift"] for thing in things]),
    "windows": [
      {
        "kept": rate([_kept(r["windows"][w]) for r in _reach(records, w)]),
        "all correct": rate(
          [all(r["windows"][w].values()) for r in _reach(records, w)]
        ),
        "color change": mean([_color_change(r, w) for r in _reach(records, w)]),
      }
      for w in range(most)
    ],
  }


def _reach(records, window: int) -> list[dict[str, Any]]:
  return [r for r in records if len(r["windows"]) > window]


def _color_change(record: dict[str, Any], window: int) -> float:
  """Grey levels between the objects' colours in a window and in the first."""
  first, later = (record["read"][w]["things"] for w in (0, window))
  pairs = [(a["ink"], b["ink"]) for a, b in zip(first, later, strict=False)]
  return float(np.mean([np.abs(np.subtract(*p)).mean() for p in pairs] or 0.0))


def _kept(found: dict[str, bool]) -> bool:
  """Whether a window shows the object that was asked for, however it moves."""
  return all(found[a] for a in KEPT)


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
