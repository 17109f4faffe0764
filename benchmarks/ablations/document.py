"""Writes the page and pictures of what was measured.

A study compares variants by measures; what is claimed is decided by a rule, not
by hand. Legend: `found` maps a variant to its records, one a seed.
"""

import math
import pathlib
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pictures
from studies import (
  BASE,
  DISTANCE,
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
from variants import TASKS, VARIANTS

Found = Mapping[str, Sequence[Record]]

TEXT = """# The paper's ablations on moving shapes

Made by `python benchmarks/ablations`, which trains every variant anew with
pyramid-train and scores it with pyramid-evaluate. A variant differs in the
settings listed under *Settings* and in nothing else.

## Summary

{summary}

Why the opposite may be seen at this size, which nothing here tests:

{likely}

A fault of the method is unlikely: schedules, noise, training examples, whole
generations, and the loss and gradients of a training step agree with numbers
recorded from the authors' code (`tests/verify`, `tests/goldens`); across a jump
mean and covariance are those that the next stage starts from
(`tests/flow/test_renoise.py`), and a perfect velocity leads to the clean latent
(`tests/flow/test_sampler.py`).

## How it was measured

| | |
| --- | --- |
| data | 64 x 64, 17 frames, one object; 8 x 8 x 3 latents |
| VAE | {vae} |
| transformer | {layers} layers, {width} wide, patches of 1 x 1 latent values |
| training | {steps} steps of {rows} rows of {tokens} latent and text tokens |
| seeds | {seeds}: of weights, order, noise and sampling |
| sampling | {sampling} Euler steps a unit, shared out among the stages |
| scored | {scored} clips of held-out captions; Frechet distance of {latents} |
| measured so far | {cases} cases, at least {hours:.1f} hours of CPU time |
| machine | {machine} |

The hours lack what went before a case was stopped and gone on with.

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

A study is *reproduced* if some measure shows its claim against each other
variant and none shows the opposite, and *not reproduced* if the opposite is
shown by some and the claim by none. The Frechet distance has no part in that,
because it cannot see what a caption asks for. "Learns faster" is judged at
every step that was measured and, with scores between two steps on a straight
line, at equal FLOPs: *ahead* (shown), *behind* (the opposite is shown) or
*level* (not decided).

{verdicts}

*Frechet distance* is that of latents averaged over place and over time, and of
their mean change from frame to frame ({features} features), to those of true
held-out clips. True clips have {true_distance} to as many other true ones. It
sees roughly how much there is of which color, and how that varies and changes;
not what shape it has, nor where it is or where it goes.
*Attributes* is the mean share of a caption's attributes that image analysis
reads in the clip (background, count, shape, color, size, direction, speed),
*all correct* the share of clips that have them all. Images have no change,
direction or speed.

Variants of a study see rows of as many tokens. How much of these is filled, and
so the FLOPs of a step, is not quite equal: it is said in every study, and FLOPs
are at most {apart:.1%} from those of the first variant.

![Results](ablations.png)

{studies}
## Settings

Of the tasks, *clips* is the first part, *stills* that of images alone, *images*
what *motion* goes on from. A setting that is not listed has the default of the
commands.

{settings}
"""


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


def outcome(lines: Sequence[Compared]) -> str:
  """What measures say together of a claim; see `TEXT`."""
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
    seen = textwrap.fill(about["blocks"], 80)
    studies.append(
      f"## What blocks look like\n\n![True clips; generated with corrective "
      f"noise, and without]({blocks.name})\n\n{seen}".rstrip()
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
    summary=summary(found, needed),
    likely=likely(found, needed),
    apart=max(
      abs(x)
      for study in STUDIES.values()
      for x in apart(found, [v for v in study.variants if found.get(v)])
    ),
    studies="\n\n".join(studies) + "\n",
    **about,
  )
  pictures.plots(found, MEASURES, path.with_suffix(".png"))
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(text)
  beside.replace(path)
