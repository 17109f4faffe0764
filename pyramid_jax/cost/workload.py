"""How full the rows of a run are, from the plan of its rows.

Datasets that are there are planned as they are; for those that are not yet,
clips of the config's sizes and lengths with prompts of typical length.

Legend: N clips, n rows.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pyramid_jax.config import Config, EncodeConfig, Source
from pyramid_jax.cost import flops
from pyramid_jax.data import latents
from pyramid_jax.data.curriculum import Curriculum
from pyramid_jax.data.draws import Pick, segment_clips
from pyramid_jax.data.latents import Lengths, NullPrompt
from pyramid_jax.data.packing import Planner
from pyramid_jax.flow.plan import Plan

PROMPT = (62, 30)  # mean and spread of a prompt's text tokens, where assumed
CLIPS = 8192  # of an assumed dataset
ROWS = 64  # whose attention is measured


class Workload(NamedTuple):
  """A mean row; multiply by the rows of a step.

  Attributes:
    samples: segments.
    latent: valid latent tokens.
    text: valid text tokens.
    pairs: (query, key) pairs that attention sees.
    visited: pairs in the tiles that hold any of them.
    assumed: what was not read from data, in words; "" if all was.
  """

  samples: float
  latent: float
  text: float
  pairs: float
  visited: float
  assumed: str


@dataclasses.dataclass(frozen=True)
class AssumedStore:
  """What planning needs of a dataset that is not there."""

  lengths: Lengths
  null: NullPrompt
  fingerprint: str


def measure(config: Config, tile: tuple[int, int]) -> Workload:
  """Plans a window of rows of each period and measures them.

  Args:
    config: of a transformer's run.
    tile: (query, key) block of the attention kernel.

  Returns:
    The mean over the steps of the run.

  Raises:
    ConfigError: clips that do not fit the rows.
  """
  sources = config.latents.sources or (Source(),)
  data = dataclasses.replace(config.latents, sources=sources)
  stores = [open_store(source, config, i) for i, source in enumerate(sources)]
  plan = Curriculum(stores, data, config.flow, config.model.patch, config.seed)
  assumed = any(isinstance(store, AssumedStore) for store in stores)
  ends = [
    *(start // data.rows for start in plan.starts[1:]),
    config.train.steps,
  ]
  steps = np.diff([0, *np.minimum(ends, config.train.steps)])
  found = np.array(
    [
      _measure(planner, stores, config, tile) if n else [0.0] * 5
      for planner, n in zip(plan.planners, steps, strict=True)
    ]
  )
  return Workload(
    *(steps @ found / steps.sum()).tolist(),
    assumed=_assumptions(config) if assumed else "",
  )


def _measure(
  planner: Planner, stores: Sequence, config: Config, tile: tuple[int, int]
) -> list[float]:
  """The fields of a `Workload` in the first window of a plan."""
  window = planner.window(0)
  n, taken = len(window), range(min(len(window), ROWS))
  pairs = visited = 0.0
  for r in taken:
    groups = [
      group
      for pick in window.row(r)
      for group in _groups(pick, stores[pick.source], config)
    ]
    length = config.latents.latent_tokens + config.latents.text_tokens
    counts = attention_pairs(groups, length, tile, config.model.causal)
    pairs, visited = pairs + counts[0], visited + counts[1]
  samples = window.samples
  return [
    samples.stage.size / n,
    samples.latent.sum() / n,
    samples.text.sum() / n,
    pairs / len(taken),
    visited / len(taken),
  ]


def model_flops(config: Config, workload: Workload) -> float:
  """FLOPs of a step by the closed formula."""
  w = workload
  once = flops.training(config.model, w.latent, w.text, w.samples, w.pairs)
  return config.latents.rows * once.total


def _groups(pick: Pick, store, config: Config) -> list[list[int]]:
  """Of each segment of a sample, the tokens of its frames, oldest first.

  The prompt's stand with the first frame's.
  """
  lengths, i = store.lengths, pick.sample
  patch, last = config.model.patch, config.flow.stages - 1
  full = int(lengths.height[i] * lengths.width[i]) // patch**2
  groups = []
  for choice in pick.choices:
    sizes = []
    for clip in segment_clips(choice.unit, choice.stage, config.flow):
      tokens = full >> 2 * (last - clip.level)
      sizes += [tokens] * (clip.stop - clip.start)
    text = lengths.text.reshape(len(lengths.text), -1)[i, pick.caption]
    sizes[0] += len(store.null.text) if choice.drop else int(text)
    groups.append(sizes)
  return groups


def attention_pairs(
  groups: list[list[int]], length: int, tile: tuple[int, int], causal: bool
) -> tuple[int, int]:
  """(pairs that a row's attention sees, pairs in tiles that hold any).

  Args:
    groups: of each segment, the tokens of its frames.
    length: J of the row; the rest is padding.
    tile: queries and keys of a block.
    causal: whether a frame sees no later one.
  """
  start, end, place = [], [], 0
  for sizes in groups:
    ends = place + np.cumsum(sizes)
    start.append(np.full(sum(sizes), place))
    end.append(np.repeat(ends if causal else [ends[-1]] * len(ends), sizes))
    place = int(ends[-1])
  start, end = np.concatenate(start), np.concatenate(end)
  return int((end - start).sum()), visited_pairs(start, end, length, tile)


def visited_pairs(
  start: np.ndarray, end: np.ndarray, length: int, tile: tuple[int, int]
) -> int:
  """Pairs in the tiles that hold any that attention sees, of a row.

  `start`, `end`: key ranges of its tokens, without padding; the rest as in
  `attention_pairs`.
  """
  q, k = (min(side, length) for side in tile)
  visited = 0
  for at in range(0, len(start), q):
    lo, hi = start[at : at + q].min(), end[at : at + q].max()
    visited += (-(-min(hi, length) // k) - lo // k) * k * q
  return int(visited)


def open_store(source: Source, config: Config, number: int):
  """A dataset, or what planning needs of one that is not there."""
  if (pathlib.Path(source.path) / "metadata.json").is_file():
    return latents.open_store(source.path)
  return AssumedStore(
    assumed_lengths(config, source, number),
    NullPrompt(np.zeros((1, 1)), np.zeros(1)),
    f"assumed {number}",
  )


def assumed_lengths(config: Config, source: Source, seed: int = 0) -> Lengths:
  """Clips of the config's sizes in turn, of lengths drawn evenly."""
  encode, vae = config.encode, config.vae
  space, time = 2 ** sum(vae.down_space), 2 ** sum(vae.down_time)
  draw = np.random.default_rng(seed)
  least, most = _frames(source, encode)
  mean, spread = PROMPT
  known = _sizes(source, encode)
  sizes = np.array(known)[np.arange(CLIPS) % len(known)] // space
  unit = config.flow.frames_per_unit
  units = draw.integers(
    (least - 1) // (time * unit), (most - 1) // (time * unit) + 1, CLIPS
  )
  text = draw.normal(mean, spread, CLIPS).astype(int)
  return Lengths(
    frames=1 + units * unit,
    height=sizes[:, 0],
    width=sizes[:, 1],
    text=np.clip(text, 8, _longest_prompt(config)),
  )


def _longest_prompt(config: Config) -> int:
  """Of an assumed one; a row has room for it."""
  data = config.latents
  room = data.text_tokens // data.segments_per_clip
  return min(config.text.max_tokens, room)


def _frames(source: Source, encode: EncodeConfig) -> tuple[int, int]:
  return tuple(source.frames) or (encode.min_frames, encode.max_frames)


def _sizes(source: Source, encode: EncodeConfig) -> Sequence[tuple[int, int]]:
  """Those that clips of a source are encoded at."""
  images = _frames(source, encode)[1] == 1
  return images and encode.image_sizes or encode.sizes


def _assumptions(config: Config) -> str:
  encode, sources = config.encode, config.latents.sources or (Source(),)
  total = sum(s.weight for s in sources)
  parts = [
    "{:g}% of {} to {} frames at {}".format(
      100 * s.weight / total,
      *_frames(s, encode),
      ", ".join(f"{h}x{w}" for h, w in _sizes(s, encode)),
    )
    for s in sources
  ]
  return (
    f"no data there: assumed clips, {' and '.join(parts)}, with prompts of "
    f"{PROMPT[0]} +- {PROMPT[1]} tokens, at most {_longest_prompt(config)}"
  )


def unit_pairs(
  plan: Plan, stages: int, unit: int, text: int, tile: tuple[int, int]
) -> int:
  """Pairs in the tiles that a sampler's unit visits, a row, all its steps."""
  total = 0
  for stage, steps in enumerate(plan.later_steps if unit else plan.steps):
    full = plan.height * plan.width // plan.patch**2
    sizes = [text]
    for clip in plan.clips(unit, stage):
      tokens = full >> 2 * (stages - 1 - clip.level)
      sizes += [tokens] * (clip.stop - clip.start)
    sizes[:2] = [sum(sizes[:2])]  # text sees the first frame
    total += steps * attention_pairs([sizes], sum(sizes), tile, True)[1]
  return total
