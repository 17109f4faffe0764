"""Writes the page and pictures of what was measured.

A study compares variants by measures; what is claimed is decided by a rule, not
by hand. Legend: `found` maps a variant to its records, one a seed.
"""

import math
import pathlib
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pictures
from studies import (
  BASE,
  MEASURES,
  MOTION_BASE,
  SCORES,
  STILLS_BASE,
  STUDIES,
  Measure,
  Record,
  Study,
  at_end,
)

Found = Mapping[str, Sequence[Record]]

TEXT = """# The paper's ablations on moving shapes

Made by `python benchmarks/ablations`, which trains every variant anew with
pyramid-train and scores it with pyramid-evaluate. A variant differs in the
settings named here and in nothing else.

| | |
| --- | --- |
| data | 64 x 64, 17 frames, one object; 8 x 8 x 3 latents |
| VAE | {vae_steps} steps |
| transformer | {layers} layers, {width} wide, patches of 1 x 1 latent values |
| training | {steps} steps of {rows} rows of {tokens} latent and text tokens |
| seeds | {seeds}: of weights, order, noise and sampling |
| sampling | {sampling} Euler steps a unit, shared out among the stages |
| scored | {scored} clips of held-out captions; Frechet distance of {latents} |
| measured so far | {cases} cases, {hours:.1f} hours of CPU time |

**This is small.** A run is a few minutes of one core, at whose end the base
variant meets {right} of the captions in full; the paper's effects are those of
a model a thousand times larger.

The same model learns more from single images alone: after {stills_steps} steps
of as many tokens, at half the rate, *{stills_base}* meets {stills_right}
of {stills_scored} captions in full.

What is asked of later frames (temporal pyramid, causal attention, corrupted
history) needs first frames that show an object. There the transformer, its rows
and its sampler are those of configs/shapes_cpu.py; every variant goes on from
the same weights, {image_steps} steps on single images, where all of them are
the same, with {motion_steps} steps on clips of its own way. {motion_scored}
clips are scored; the base variant, *{motion_base}*, meets {motion_right} of
the captions in full.

An entry is the mean over seeds and, in brackets, the least and the most. The
rule by which a claim is judged, for each measure:

- *shown*: every seed of the one variant is better than every seed of the other
  (of equal variants once in {chance} measures, so a few of these are luck);
- *the opposite is shown*: every seed is worse;
- *not decided*: the ranges overlap, so that this size and these seeds cannot
  tell;
- *not measured*: fewer than {needed} seeds so far.

Beside it stands in how many seeds the one is better than the other of the same
seed, which has the same noise and captions.

{verdicts}

*Frechet distance* is that of latents averaged over place and over time, and of
their mean change from frame to frame ({features} features), to those of true
held-out clips. True clips have {true_distance} to as many other true ones.
*Attributes* is the mean share of a caption's attributes that image analysis
reads in the clip (background, count, shape, color, size, direction, speed),
*all correct* the share of clips that have them all. Images have no change,
direction or speed.

![Results](ablations.png)

{studies}"""


def verdict(
  measure: Measure,
  ours: Collection[float],
  others: Collection[float],
  needed: int,
) -> str:
  """What seeds say of a claim that the first are better; see `TEXT`."""
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
  more = [compute(found, have), over_compute(found, have)]
  return "\n\n".join(
    [
      f"## {study.title}",
      textwrap.fill(f"Paper: {study.claim}", 80),
      textwrap.fill(f"Run: {ran}", 80),
      table(("variant", *columns), lines),
      "\n".join(said),
      *(more if study.over_compute else []),
    ]
  )


def compute(found: Found, variants: Sequence[str]) -> str:
  """What a training step of each variant sees and computes."""
  head = ("a training step", "rows", "latent + text tokens a row", "filled",
          "segments", "model GFLOP")  # fmt: skip
  lines = []
  for variant in variants:
    w = at_end("work")(found[variant][0])
    lines.append(
      (
        variant, w["rows"], f"{w['latent tokens']} + {w['text tokens']}",
        f"{w['fill']:.1%}", f"{w['segments']:.1f}", f"{w['flops'] / 1e9:.2f}",
      )
    )  # fmt: skip
  return table(head, lines)


def over_compute(found: Found, variants: Sequence[str]) -> str:
  """Scores at the steps that were measured."""
  names = ("frechet", "attributes", "all correct")
  lines = []
  for variant in variants:
    for step in found[variant][0]["over compute"]:
      records = [
        r["over compute"][step]
        for r in found[variant]
        if step in r["over compute"]
      ]
      teraflop = int(step) * records[0]["work"]["flops"] / 1e12
      cells = [
        spread(Measure(at_end(name), form), [r[name] for r in records])
        for name, form in zip(
          names, ("{:.3f}", "{:.1%}", "{:.1%}"), strict=True
        )
      ]
      lines.append((variant, step, f"{teraflop:.2f}", *cells))
  return table(("variant", "steps", "TFLOP", *SCORES), lines)


def table(head: Sequence, lines: Sequence[Sequence]) -> str:
  """Markdown."""
  rows = [head, ["---"] * len(head), *lines]
  return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def write(
  found: Found, path: pathlib.Path, needed: int, **about: str | int | float
) -> None:
  """Writes the page, and a picture of the same name.

  Args:
    found: what was measured.
    path: of the page.
    needed: seeds that a verdict takes.
    **about: how it was made, see `TEXT`.
  """
  records = [record for of_seed in found.values() for record in of_seed]
  if not records:
    return
  studies = [
    section(study, found, needed)
    for study in STUDIES.values()
    if any(found.get(v) for v in study.variants[1:])
  ]
  if (blocks := path.with_name(f"{path.stem}_blocks.png")).exists():
    studies.append(
      f"## What blocks look like\n\n![True clips; generated with corrective "
      f"noise, and without]({blocks.name})"
    )
  right = lambda variant: (
    spread(
      MEASURES["all correct"], values(found, variant, "all correct").values()
    )
    or "(not measured)"
  )
  text = TEXT.format(
    needed=needed,
    chance=math.comb(2 * needed, needed),
    cases=len(records),
    hours=sum(r["cpu seconds"] for r in records) / 3600,
    true_distance=f"{at_end('frechet of true clips')(records[0]):.3f}",
    right=right(BASE),
    stills_base=STILLS_BASE,
    stills_right=right(STILLS_BASE),
    motion_base=MOTION_BASE,
    motion_right=right(MOTION_BASE),
    verdicts=verdicts(found, needed),
    studies="\n\n".join(studies) + "\n",
    **about,
  )
  pictures.plots(found, MEASURES, path.with_suffix(".png"))
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(text)
  beside.replace(path)
