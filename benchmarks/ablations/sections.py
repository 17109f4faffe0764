"""Parts of the page: summary, a section of each study, settings.

Legend: `found` maps a variant to its records, one a seed.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rule import (
  BUDGETS,
  TERAFLOP,
  Compared,
  Found,
  at_spent,
  at_step,
  by_chance,
  comparisons,
  deciding,
  points,
  spent,
  spread,
  standing,
  valid_tokens,
  values,
)
from studies import (
  DISTANCE,
  MEASURES,
  SCORES,
  STUDIES,
  Measure,
  Study,
  at_end,
  counts_colors,
)
from variants import TASKS, VARIANTS


def conclusion(study: Study, found: Found, needed: int) -> str:
  """The outcome, and what the distance says where it says something else."""
  whole, why = standing(study, found, needed)
  compared = comparisons(study, found, needed)
  if whole == "no claim":
    return "The paper claims nothing of this, so nothing is concluded."
  usual = {"reproduced": "shown", "not reproduced": "the opposite is shown"}
  odd = [
    f"*{c.verdict}* ({c.other})"
    for c in compared
    if c.measure == DISTANCE
    and c.decides
    and c.verdict in ("shown", "the opposite is shown")
    and c.verdict != usual.get(whole)
  ]
  text = f"Together: **{whole}**{f' ({why})' if why else ''}."
  text += (
    f" By {counted(len(deciding(compared)), 'comparison')}: of equal variants "
    "one at least says *shown* in at most "
    f"{by_chance(compared, needed):.0%} of such studies, and as often one says "
    "the opposite."
  )
  if odd:
    text += (
      f" The Frechet distance says {', '.join(odd)}; it sees neither shapes "
      "nor places, which is what captions ask for, and decides nothing alone."
    )
  return textwrap.fill(text, 80)


def counted(n: int, name: str) -> str:
  """So many of something."""
  return f"{n} {name}{'' if n == 1 else 's'}"


def summary(found: Found, needed: int) -> str:
  """The studies by their outcomes."""
  kinds = ("reproduced", "not reproduced", "not decided", "not measured")
  named: dict[str, list[str]] = {kind: [] for kind in kinds}
  for study in STUDIES.values():
    whole, why = standing(study, found, needed)
    if whole in named:
      named[whole].append(f"{study.title} ({why})" if why else study.title)
  return "\n".join(
    textwrap.fill(
      f"- **{kind.capitalize()}**: {'; '.join(titles)}.", 80,
      subsequent_indent="  ",
    )
    for kind, titles in named.items()
    if titles
  )  # fmt: skip


OPPOSITE = "the opposite is shown"


def likely(found: Found, needed: int) -> str:
  """Guesses at why the opposite is seen where the paper makes a claim."""
  lines = []
  for study in STUDIES.values():
    seen = [
      c
      for c in comparisons(study, found, needed)
      if c.verdict == OPPOSITE and c.other in (study.against or (c.other,))
    ]
    if seen and study.claimed:
      sides = (named(c for c in seen if c.decides == x) for x in (True, False))
      lines.append((study.title, *sides, study.likely))
  head = ("study", "of the claim", "besides", "likely cause")
  return table(head, lines) if lines else "It is seen of no claim."


def named(compared: Iterable[Compared]) -> str:
  """Their measures."""
  return ", ".join(dict.fromkeys(c.measure for c in compared))


def verdicts(found: Found, needed: int, decides: bool) -> str:
  """A line for every study: what its comparisons say.

  Args:
    found: what was measured.
    needed: seeds that a verdict takes.
    decides: those that the claim is about, or the others.
  """
  words = ("shown", "not decided", OPPOSITE, "not measured")
  lines = []
  for study in STUDIES.values():
    several = len(study.variants) > 2
    said: dict[str, list[str]] = {word: [] for word in words}
    for c in comparisons(study, found, needed):
      if c.decides == decides:
        name = f"{c.measure} ({c.other})" if several else c.measure
        said[c.verdict].append(name)
    if any(said.values()):
      lines.append((study.title, *("; ".join(x) for x in said.values())))
  return table(("claim" if decides else "study", *words), lines)


def section(study: Study, found: Found, needed: int, remark: str = "") -> str:
  """A study's claim, table and verdict; `remark` is of these very records."""
  have = [v for v in study.variants if found.get(v)]
  ran = study.ran
  if have:
    first = found[have[0]][0]
    blocks = at_end("blocks of true clips")(first)
    distance = at_end("frechet of true clips")(first)
    ran = f"{ran.format(**blocks, distance=distance)} {remark}".rstrip()
  columns = study.columns
  lines = [
    (v, *(spread(MEASURES[c], values(found, v, c).values()) for c in columns))
    for v in have
  ]
  said = [
    f"- {'' if c.decides else 'besides: '}{c.measure}, {study.variants[0]} "
    f"better than {c.other}: "
    f"**{c.verdict}**, {c.ours} against {c.theirs}{c.pairs}"
    for c in comparisons(study, found, needed)
  ]
  more = [] if of_all(found, have, columns) else [INSIDE]
  if study.over_compute and len(have) == len(study.variants):
    more = [over_compute(found, have), faster(study, found, needed)]
  return "\n\n".join(
    [
      f"## {study.title}",
      textwrap.fill(f"Paper: {study.claim}", 80),
      textwrap.fill(f"Run: {ran}", 80),
      table(("variant", *columns), lines),
      "\n".join(said),
      conclusion(study, found, needed),
      compute(found, have),
      *more,
    ]
  )


INSIDE = textwrap.fill(
  "*Color change later* gives a quarter the weight of the clips whose object "
  "is inside: those in which it was seen in both quarters were not counted "
  "when these were measured.",
  80,
)


def of_all(found: Found, variants: Sequence[str], columns: Sequence) -> bool:
  """Whether what is shown of changes of color has the weight it should."""
  records = [r for variant in variants for r in found[variant]]
  shown = "color change later" in columns
  return not shown or all(map(counts_colors, records))


def apart(found: Found, variants: Sequence[str], of=lambda w: w["flops"]):
  """What a step computes above the first variant's, as shares, seed by seed."""

  def of_seeds(variant: str) -> dict[int, float]:
    return {r["seed"]: of(at_end("work")(r)) for r in found[variant]}

  each = [of_seeds(variant) for variant in variants]
  return [
    [x / each[0][seed] - 1 for seed, x in of.items() if seed in each[0]]
    for of in each
  ]


def compute(found: Found, variants: Sequence[str]) -> str:
  """What a training step of each variant sees and computes."""
  head = ("a training step", "rows", "latent + text places a row", "filled",
          "valid tokens", "against the first", "segments", "model GFLOP",
          "against the first")  # fmt: skip
  lines = []
  more = zip(
    variants, apart(found, variants, valid_tokens), apart(found, variants),
    strict=True,
  )  # fmt: skip
  for variant, tokens, flops in more:
    works = [at_end("work")(r) for r in found[variant]]
    w, of_seeds = works[0], lambda of, form, works=works: spread(
      Measure(of, form), [of(w) for w in works]
    )  # fmt: skip
    share = lambda x: spread(Measure(float, "{:+.1%}"), x) if any(x) else ""
    lines.append(
      (
        variant, w["rows"], f"{w['latent tokens']} + {w['text tokens']}",
        of_seeds(lambda w: w["fill"], "{:.1%}"),
        of_seeds(valid_tokens, "{:.0f}"), share(tokens),
        of_seeds(lambda w: w["segments"], "{:.1f}"),
        of_seeds(lambda w: w["flops"] / 1e9, "{:.2f}"), share(flops),
      )
    )  # fmt: skip
  return table(head, lines)


def over_compute(found: Found, variants: Sequence[str]) -> str:
  """Scores at the steps that were measured."""
  names = ("frechet", "attributes", "all correct")
  forms = ("{:.3f}", "{:.1%}", "{:.1%}")
  lines = []
  for variant in variants:
    records = found[variant]
    x = zip(*(spent(r, TERAFLOP) for r in records), strict=True)
    for step, teraflops in zip(records[0]["over compute"], x, strict=True):
      parts = [r["over compute"][step] for r in records]
      cells = [
        spread(Measure(at_end(name), form), [part[name] for part in parts])
        for name, form in zip(names, forms, strict=True)
      ]
      spending = spread(Measure(float), teraflops)
      lines.append((variant, step, spending, *cells))
  return table(("variant", "steps", TERAFLOP, *SCORES), lines)


def faster(study: Study, found: Found, needed: int) -> str:
  """Who is ahead at each step, at equal FLOPs and equal tokens."""
  words = {"shown": "ahead", "not decided": "level", OPPOSITE: "behind"}
  ours, other = pair = study.variants
  there = {
    f"{step} steps": at_step(found, step)
    for step in found[ours][0]["over compute"]
  }
  for budget in BUDGETS:
    for point in points(found, pair, budget):
      there[f"{point:.2f} {budget}"] = at_spent(found, pair, budget, point)
  lines = []
  for where, records in there.items():
    cells = [
      f"{words.get(c.verdict, c.verdict)}: {c.ours.split(' (')[0]} against "
      f"{c.theirs.split(' (')[0]}"
      for c in comparisons(study, records, needed)
      if c.decides
    ]
    lines.append((where, *cells))
  return "\n\n".join(
    [
      table((f"{ours} against {other}", *study.claimed), lines),
      *disagreements(found, pair),
    ]
  )


def disagreements(found: Found, variants: Sequence[str]) -> Iterator[str]:
  """Where the distance grew in training while more captions were met."""
  for variant in variants:
    steps = [*found[variant][0]["over compute"]]
    parts = [at_step(found, step) for step in (steps[0], steps[-1])]
    mean = lambda name, part, v=variant: np.mean(
      [*values(part, v, name).values()]
    )
    far, right = (
      [mean(name, part) for part in parts] for name in (DISTANCE, SCORES[-1])
    )
    if far[1] > far[0] and right[1] > right[0]:
      yield textwrap.fill(
        f"From {steps[0]} to {steps[-1]} steps the Frechet distance of "
        f"*{variant}* grows from {far[0]:.3f} to {far[1]:.3f}, while "
        f"{right[0]:.1%} and then {right[1]:.1%} of its clips are all correct.",
        80,
      )


def written(value: Any) -> str:
  """A setting, as it stands in a table."""
  if isinstance(value, tuple | list):
    return f"({', '.join(map(written, value))})"
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings(usual: Mapping[str, Any], base: Mapping[str, Any]) -> str:
  """What each task and each variant is set to.

  Args:
    usual: defaults, by name.
    base: what the config of all of them sets.
  """
  names = sorted({*base}.union(*(task.settings for task in TASKS.values())))
  each = [{**usual, **base, **task.settings} for task in TASKS.values()]
  tasks = [(f"`{n}`", *(written(task[n]) for task in each)) for n in names]
  variants = []
  for name, variant in VARIANTS.items():
    changes = [f"`{k}={written(v)}`" for k, v in variant.settings.items()]
    flags = [f"`{flag}`" for flag in variant.sampled_as]
    variants.append((name, variant.task, ", ".join([*changes, *flags]) or "-"))
  return "\n\n".join(
    [
      table(("variant", "task", "changes"), variants),
      "A flag is one of sampling: the weights are those of the task's first "
      "variant.",
      table(("task", *TASKS), tasks),
    ]
  )


def table(head: Sequence, lines: Sequence[Sequence]) -> str:
  """Markdown."""
  rows = [head, ["---"] * len(head), *lines]
  return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
