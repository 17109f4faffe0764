"""Writes the page and pictures of what was measured.

A study compares variants by measures; what is claimed is decided by a rule, not
by hand (rule.py). Legend: `found` maps a variant to its records, one a seed.
"""

import math
import pathlib
import textwrap
from collections.abc import Mapping

import pictures
from rule import Found, spread, valid_tokens, values
from sections import apart, likely, section, summary, verdicts
from studies import BASE, MEASURES, MOTION_BASE, STILLS_BASE, STUDIES, at_end

TEXT = """# The paper's ablations on moving shapes

Made by `python benchmarks/ablations`, which trains every variant anew with
pyramid-train and scores it with pyramid-evaluate. It keeps results, and writes
such a page, in its own folder; those in docs are changed only if `--kept` names
them. A variant differs in the settings listed under *Settings* and in nothing
else.

## Summary

{summary}

Where the opposite is seen, by measures that the claim is about and by others,
and why it may be at this size, which nothing here tests:

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
| training | {steps} steps of {rows} rows, {tokens} places for tokens in each |
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
of as many places, at half the rate, *{stills_base}* meets {stills_right}
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
seed, which has the same captions and the same order of clips. Another number of
stages, another way to draw them and the full sequence pack other rows, with
other noise, so that there such a pair shares little more than any two seeds;
all others have the same rows and noise.

A study is *reproduced* if some measure that its claim is about shows it against
each other variant and none shows the opposite, and *not reproduced* if the
opposite is shown by some and the claim by none. The Frechet distance has no
part in that, because it cannot see what a caption asks for; nor have measures
and variants of which the paper says nothing. The more measures decide, the more
often one does by chance: of equal variants at least one of m says *shown* in at
most m of {chance} studies, and as often one says the opposite; every study says
how many its are. "Learns faster" is judged at every step that was measured and,
with scores between two steps on a straight line, at equal FLOPs and at equal
numbers of valid tokens: *ahead* (shown), *behind* (the opposite is shown) or
*level* (not decided).

What the claims are about:

{verdicts}

What is compared besides, of which the paper claims nothing:

{besides}

*Frechet distance* is that of latents averaged over place and over time, and of
their mean change from frame to frame ({features} features), to those of true
held-out clips. True clips have {true_distance} to as many other true ones, of
other captions; generated clips have the same captions as those that they are
compared with, so that this is no floor, and they may be below it. It
sees roughly how much there is of which color, and how that varies and changes;
not what shape it has, nor where it is or where it goes.
*Attributes* is the mean share of a caption's attributes that image analysis
reads in the clip (background, count, shape, color, size, direction, speed),
*all correct* the share of clips that have them all. Images have no change,
direction or speed.

Variants of a study see rows of as many places for tokens. How many of these are
filled, and so the valid tokens and the FLOPs of a step, is not quite equal: it
is said in every study. Of a same seed, valid tokens are at most
{tokens_apart:.1%} from those of the first variant and FLOPs {apart:.1%}.

![Results](ablations.png)

{studies}
## Settings

Of the tasks, *clips* is the first part, *stills* that of images alone, *images*
what *motion* goes on from. A setting that is not listed has the default of the
commands.

{settings}
"""


def most_apart(found: Found, *of) -> float:
  """The largest share by which a variant's step is not that of the first."""
  return max(
    abs(x)
    for study in STUDIES.values()
    for shares in apart(found, [v for v in study.variants if found.get(v)], *of)
    for x in shares
  )


def write(
  found: Found,
  path: pathlib.Path,
  needed: int,
  remarks: Mapping[str, str],
  **about: str | int | float,
) -> None:
  """Writes the page, and a picture of the same name.

  Args:
    found: what was measured.
    path: of the page.
    needed: seeds that a verdict takes.
    remarks: on studies, noted by hand of these very records.
    **about: how it was made, see `TEXT`.
  """
  records = [record for of_seed in found.values() for record in of_seed]
  if not records:
    return
  studies = [
    section(study, found, needed, remarks.get(name, ""))
    for name, study in STUDIES.items()
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
    verdicts=verdicts(found, needed, True),
    besides=verdicts(found, needed, False),
    summary=summary(found, needed),
    likely=likely(found, needed),
    apart=most_apart(found),
    tokens_apart=most_apart(found, valid_tokens),
    studies="\n\n".join(studies) + "\n",
    **about,
  )
  pictures.plots(found, MEASURES, path.with_suffix(".png"))
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(text)
  beside.replace(path)
