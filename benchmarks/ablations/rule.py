"""The rule that decides claims, and the numbers it is applied to.

Legend: `found` maps a variant to its records, one a seed.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
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
  """Mean, least and most; or the one value that there is, as it is written."""
  if not numbers:
    return ""
  text = measure.format.format
  mean = text(sum(numbers) / len(numbers))
  least, most = text(min(numbers)), text(max(numbers))
  return mean if least == most else f"{mean} ({least} to {most})"


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
  decides: bool = True  # whether the claim is about this


def comparisons(study: Study, found: Found, needed: int) -> list[Compared]:
  """By each measure of a study, with each other variant."""
  lines = []
  for name in study.compared:
    measure, ours = MEASURES[name], values(found, study.variants[0], name)
    for other in study.variants[1:]:
      theirs = values(found, other, name)
      numbers = [ours.values(), theirs.values()]
      word = verdict(measure, *numbers, needed)
      shown = [spread(measure, x) or "nothing" for x in numbers]
      seeds = pairs(measure, ours, theirs)
      about = name in study.claimed and other in (study.against or (other,))
      lines.append(Compared(name, other, word, *shown, seeds, about))
  return lines


def deciding(lines: Sequence[Compared]) -> list[Compared]:
  """Those that the outcome is made of; the distance has no part in it."""
  return [c for c in lines if c.decides and c.measure != DISTANCE]


def by_chance(lines: Sequence[Compared], needed: int) -> float:
  """How often at most one of those says *shown* of equal variants."""
  return min(1.0, len(deciding(lines)) / math.comb(2 * needed, needed))


def outcome(lines: Sequence[Compared]) -> str:
  """What the measures of a claim say together; see `document.TEXT`."""
  said: dict[str, set[str]] = {}
  for c in deciding(lines):
    said.setdefault(c.other, set()).add(c.verdict)
  if not said:
    return "no claim"
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


TERAFLOP, TOKENS = "TFLOP", "M tokens"
BUDGETS: dict[str, Callable[[Mapping], float]] = {
  TERAFLOP: lambda work: work["flops"] / 1e12,
  # what is learned from; rows have places that stay empty, too
  TOKENS: lambda work: valid_tokens(work) / 1e6,
}


def valid_tokens(work: Mapping[str, float]) -> float:
  """Latent and text tokens of a training step, without padding."""
  places = work["latent tokens"] + work["text tokens"]
  return work["fill"] * work["rows"] * places


def spent(record: Record, budget: str) -> list[float]:
  """On training, at each step that was measured."""
  a_step = BUDGETS[budget](at_end("work")(record))
  return [int(step) * a_step for step in record["over compute"]]


def at_spent(found: Found, variants: Sequence[str], budget: str, much: float):
  """Records with scores between steps, on the straight line of each seed."""

  def between(record: Record) -> dict[str, Any]:
    parts, x = [*record["over compute"].values()], spent(record, budget)
    names = [name for name, of in parts[0].items() if isinstance(of, float)]
    y = lambda name: [part[name] for part in parts]
    scores = {name: float(np.interp(much, x, y(name))) for name in names}
    return {**record, "over compute": {"between": scores}}

  return {v: [between(record) for record in found[v]] for v in variants}


def points(found: Found, variants: Sequence[str], budget: str) -> list[float]:
  """Where every seed has scores: the first, the last and steps in between."""
  each = [[spent(r, budget) for r in found[v]] for v in variants]
  means = [float(np.mean(x)) for of in each for x in zip(*of, strict=True)]
  low = max(x[0] for of in each for x in of)
  high = min(x[-1] for of in each for x in of)
  if high <= low:
    return []
  apart = (high - low) / 20  # nearer ones are the same
  inner = [x for x in sorted(means) if low + apart < x < high - apart]
  return [low, *inner, high]


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
