"""The rule that decides claims, and the numbers it is applied to.

Legend: `found` maps a variant to its records, one a seed.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from studies import DISTANCE, MEASURES, Measure, Record, Study, at_end

Found = Mapping[str, Sequence[Record]]


def verdict(
  measure: Measure,
  ours: Collection[float],
  others: Collection[float],
  needed: int,
) -> str:
  """What seeds say of a claim that the first are better: document.TEXT."""
  if min(len(ours), len(others)) < needed:
    return "not measured"
  sign = 1 if measure.smaller else -1
  a, b = sorted(sign * x for x in ours), sorted(sign * x for x in others)
  if a[-1] < b[0]:
    return "shown"
  return "the opposite is shown" if b[-1] < a[0] else "not decided"


def values(found: Found, variant: str, name: str) -> dict[int, float]:
  """A measure of a variant, by seed, of those that have one.

  (Where no object is read in any clip, none has a color that could drift.)
  """
  of = MEASURES[name].of
  each = {record["seed"]: of(record) for record in found.get(variant, [])}
  return {seed: value for seed, value in each.items() if math.isfinite(value)}


def spread(measure: Measure, numbers: Collection[float]) -> str:
  """Mean, least and most; or the one value that there is."""
  if not numbers:
    return ""
  text = measure.format.format
  mean = text(sum(numbers) / len(numbers))
  if min(numbers) == max(numbers):
    return mean
  return f"{mean} ({text(min(numbers))} to {text(max(numbers))})"


def pairs(measure: Measure, ours: Mapping, others: Mapping) -> str:
  """In how many seeds the first is better than the other of the same seed."""
  seeds = ours.keys() & others.keys()
  if not seeds:
    return ""
  sign = 1 if measure.smaller else -1
  better = sum(sign * ours[s] < sign * others[s] for s in seeds)
  return f"; better in {better} of {len(seeds)} seeds"


class Compared(NamedTuple):
  """What is said of a claim by one measure, and of one other variant."""

  measure: str
  other: str
  verdict: str
  ours: str
  theirs: str
  pairs: str


def comparisons(study: Study, found: Found, needed: int) -> list[Compared]:
  """By each measure that decides a study's claim, with each other variant."""
  lines = []
  for name in study.decided_by:
    measure, ours = MEASURES[name], values(found, study.variants[0], name)
    for other in study.variants[1:]:
      theirs = values(found, other, name)
      numbers = [ours.values(), theirs.values()]
      word = verdict(measure, *numbers, needed)
      shown = [spread(measure, x) or "nothing" for x in numbers]
      seeds = pairs(measure, ours, theirs)
      lines.append(Compared(name, other, word, *shown, seeds))
  return lines


def outcome(lines: Sequence[Compared]) -> str:
  """What measures say together of a claim; see `document.TEXT`."""
  said: dict[str, set[str]] = {}
  for c in lines:
    if c.measure != DISTANCE:
      said.setdefault(c.other, set()).add(c.verdict)
  if any(words == {"not measured"} for words in said.values()):
    return "not measured"
  good = ["shown" in words for words in said.values()]
  bad = ["the opposite is shown" in words for words in said.values()]
  if any(good) and any(bad):
    return "not decided: measures disagree"
  if any(bad):
    return "not reproduced"
  return "reproduced" if all(good) else "not decided"


def at_step(found: Found, step: str) -> Found:
  """The records as if training had ended at a step."""
  return {
    variant: [
      {**r, "over compute": {step: r["over compute"][step]}}
      for r in records
      if step in r["over compute"]
    ]
    for variant, records in found.items()
  }


def teraflops(found: Found, variant: str) -> list[float]:
  """Of training, at each step that was measured."""
  first = found[variant][0]
  flops = at_end("work")(first)["flops"]
  return [int(step) * flops / 1e12 for step in first["over compute"]]


def at_teraflop(found: Found, variants: Sequence[str], teraflop: float):
  """Records with scores between steps, on the straight line of each seed."""

  def between(variant: str, record: Record) -> dict[str, Any]:
    parts, x = [*record["over compute"].values()], teraflops(found, variant)
    names = [name for name, of in parts[0].items() if isinstance(of, float)]
    y = lambda name: [part[name] for part in parts]
    scores = {name: float(np.interp(teraflop, x, y(name))) for name in names}
    return {**record, "over compute": {"between": scores}}

  return {v: [between(v, record) for record in found[v]] for v in variants}


def standing(study: Study, found: Found, needed: int) -> tuple[str, str]:
  """The outcome; and why it is no other, or at which steps it is another."""
  whole, _, why = outcome(comparisons(study, found, needed)).partition(": ")
  first = found.get(study.variants[0], [])
  if not (study.over_compute and first):
    return whole, why
  *early, end = first[0]["over compute"]
  other: dict[str, list[str]] = {}
  for step in early:
    there = outcome(comparisons(study, at_step(found, step), needed))
    if there != whole:
      other.setdefault(there, []).append(step)
  before = [f"{k} at {' and '.join(v)}" for k, v in other.items()]
  return whole, "; ".join([f"at {end} steps", *before] if before else [])
