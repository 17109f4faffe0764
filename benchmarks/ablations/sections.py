"""Parts of the page: summary, a section of each study, settings.

Legend: `found` maps a variant to its records, one a seed.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rule import (
  Found,
  at_step,
  at_teraflop,
  comparisons,
  outcome,
  spread,
  standing,
  teraflops,
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
)
from variants import TASKS, VARIANTS


def conclusion(study: Study, found: Found, needed: int) -> str:
  """The outcome, and what the distance says where it says something else."""
  whole, why = standing(study, found, needed)
  usual = {"reproduced": "shown", "not reproduced": "the opposite is shown"}
  odd = [
    f"*{c.verdict}* ({c.other})"
    for c in comparisons(study, found, needed)
    if c.measure == DISTANCE
    and c.verdict in ("shown", "the opposite is shown")
    and c.verdict != usual.get(whole)
  ]
  text = f"Together: **{whole}**{f' ({why})' if why else ''}."
  if odd:
    text += (
      f" The Frechet distance says {', '.join(odd)}; it sees neither shapes "
      "nor places, which is what captions ask for, and decides nothing alone."
    )
  return textwrap.fill(text, 80)


def summary(found: Found, needed: int) -> str:
  """The studies by their outcomes."""
  kinds = ("reproduced", "not reproduced", "not decided", "not measured")
  named: dict[str, list[str]] = {kind: [] for kind in kinds}
  for study in STUDIES.values():
    whole, why = standing(study, found, needed)
    named[whole].append(f"{study.title} ({why})" if why else study.title)
  return "\n".join(
    textwrap.fill(
      f"- **{kind.capitalize()}**: {'; '.join(titles)}.", 80,
      subsequent_indent="  ",
    )
    for kind, titles in named.items()
    if titles
  )  # fmt: skip


def likely(found: Found, needed: int) -> str:
  """Guesses at why the claims that are not reproduced are not."""
  lines = []
  for study in STUDIES.values():
    compared = comparisons(study, found, needed)
    if outcome(compared) == "not reproduced":
      seen = [c for c in compared if c.verdict == "the opposite is shown"]
      names = ", ".join(dict.fromkeys(c.measure for c in seen))
      lines.append((study.title, names, study.likely))
  head = ("not reproduced", "opposite shown by", "likely cause")
  return table(head, lines) if lines else "It is seen of no claim."


def verdicts(found: Found, needed: int) -> str:
  """A line for every study: which measures show its claim, which do not."""
  words = ("shown", "not decided", "the opposite is shown", "not measured")
  lines = []
  for study in STUDIES.values():
    several = len(study.variants) > 2
    said = {word: [] for word in words}
    for c in comparisons(study, found, needed):
      name = f"{c.measure} ({c.other})" if several else c.measure
      said[c.verdict].append(name)
    lines.append((study.title, *("; ".join(x) for x in said.values())))
  return table(("claim", *words), lines)


def section(study: Study, found: Found, needed: int) -> str:
  """A study's claim, table and verdict."""
  have = [v for v in study.variants if found.get(v)]
  ran = study.ran
  if have:
    first = found[have[0]][0]
    blocks = at_end("blocks of true clips")(first)
    distance = at_end("frechet of true clips")(first)
    ran = ran.format(**blocks, distance=distance)
  columns = study.columns
  lines = [
    (v, *(spread(MEASURES[c], values(found, v, c).values()) for c in columns))
    for v in have
  ]
  said = [
    f"- {c.measure}, {study.variants[0]} better than {c.other}: "
    f"**{c.verdict}**, {c.ours} against {c.theirs}{c.pairs}"
    for c in comparisons(study, found, needed)
  ]
  more = []
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


def apart(found: Found, variants: Sequence[str]) -> list[float]:
  """What a step's FLOPs are above those of the first variant, as a share."""
  flops = [at_end("work")(found[v][0])["flops"] for v in variants]
  return [x / flops[0] - 1 for x in flops]


def compute(found: Found, variants: Sequence[str]) -> str:
  """What a training step of each variant sees and computes."""
  head = ("a training step", "rows", "latent + text tokens a row", "filled",
          "segments", "model GFLOP", "against the first")  # fmt: skip
  lines = []
  for variant, more in zip(variants, apart(found, variants), strict=True):
    w = at_end("work")(found[variant][0])
    lines.append(
      (
        variant, w["rows"], f"{w['latent tokens']} + {w['text tokens']}",
        f"{w['fill']:.1%}", f"{w['segments']:.1f}", f"{w['flops'] / 1e9:.2f}",
        f"{more:+.1%}" if more else "",
      )
    )  # fmt: skip
  return table(head, lines)


def over_compute(found: Found, variants: Sequence[str]) -> str:
  """Scores at the steps that were measured."""
  names = ("frechet", "attributes", "all correct")
  lines = []
  for variant in variants:
    steps = found[variant][0]["over compute"]
    for step, x in zip(steps, teraflops(found, variant), strict=True):
      records = [
        r["over compute"][step]
        for r in found[variant]
        if step in r["over compute"]
      ]
      cells = [
        spread(Measure(at_end(name), form), [r[name] for r in records])
        for name, form in zip(
          names, ("{:.3f}", "{:.1%}", "{:.1%}"), strict=True
        )
      ]
      lines.append((variant, step, f"{x:.2f}", *cells))
  return table(("variant", "steps", "TFLOP", *SCORES), lines)


def faster(study: Study, found: Found, needed: int) -> str:
  """Who is ahead at each step and at equal FLOPs, and scores that disagree."""
  words = {
    "shown": "ahead", "not decided": "level", "the opposite is shown": "behind",
  }  # fmt: skip
  ours, other = pair = study.variants
  columns = {}
  for step in found[ours][0]["over compute"]:
    columns[f"{step} steps"] = comparisons(study, at_step(found, step), needed)
  x = [teraflops(found, v) for v in pair]
  low, high = max(x[0][0], x[1][0]), min(x[0][-1], x[1][-1])
  for point in sorted(p for p in sum(x, []) if low <= p <= high):
    between = at_teraflop(found, pair, point)
    columns[f"{point:.2f} TFLOP"] = comparisons(study, between, needed)
  lines = []
  for i, name in enumerate(study.decided_by):
    said = [column[i] for column in columns.values()]
    cells = [
      f"{words.get(c.verdict, c.verdict)}: {c.ours.split(' (')[0]} against "
      f"{c.theirs.split(' (')[0]}"
      for c in said
    ]
    lines.append((name, *cells))
  return "\n\n".join(
    [
      table((f"{ours} against {other}", *columns), lines),
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
