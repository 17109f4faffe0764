"""From a stored clip and what was drawn for it to a row of packed tokens.

Numpy on the host; noise, timesteps and corruption are drawn on the device.

Legend: T frames, h w latent pixels, C channels; n tokens of a segment, m of
its text, D = patch^2 C values of a token; L latent tokens, M text tokens,
S segments of a row, E P dims of text and pooled vectors.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyramid_jax.config import DiTConfig, FlowConfig
from pyramid_jax.data.draws import Choice, segment_clips
from pyramid_jax.data.latents import Example, NullPrompt, Statistics
from pyramid_jax.flow import history, resample

Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TokenSpec:
  """How latents become tokens: what data and model have to agree on."""

  flow: FlowConfig = FlowConfig()
  patch: int = 2
  positions: str = "interpolated"  # of the history; or "plain"
  table_size: int | None = None  # of the position table; None: grid from 0

  @classmethod
  def of(cls, flow: FlowConfig, model: DiTConfig) -> "TokenSpec":
    """What a model takes."""
    return cls(flow, model.patch, model.history_positions, model.grid)


class Segment(NamedTuple):
  """One (unit, stage) of a clip: its history, its target, its prompt."""

  clean: np.ndarray  # [n, D] float32
  coarse: np.ndarray  # [n, D] Up(Down) of targets above the lowest stage, or 0
  frame: np.ndarray  # [n] int32
  yx: np.ndarray  # [n, 2] float32
  is_target: np.ndarray  # [n] bool
  weight: np.ndarray  # [n] float32, 1 / target values, 0 for the history
  stage: int
  text: np.ndarray  # [m, E]
  pooled: np.ndarray  # [P]


def segments(
  example: Example,
  choices: Sequence[Choice],
  null: NullPrompt,
  statistics: Statistics,
  spec: TokenSpec,
) -> list[Segment]:
  """The segments of a stored clip, one a choice."""
  last = max(segment_clips(c.unit, 0, spec.flow)[-1].stop for c in choices)
  latent = statistics.normalise(example["latent"][:last])
  given = NullPrompt(example["text"], example["pooled"])
  return [
    segment(latent, c.unit, c.stage, null if c.drop else given, spec)
    for c in choices
  ]


def segment(
  latent_ThwC: np.ndarray,
  unit: int,
  stage: int,
  prompt: NullPrompt,
  spec: TokenSpec,
) -> Segment:
  """The tokens of a normalised clip's unit at a stage, with its history.

  The clean values are those of `resample.token_pool` at `Layout.source`, but
  of every level only the frames that are needed are computed.
  """
  flow = spec.flow
  clips = segment_clips(unit, stage, flow)
  levels = [_at_level(latent_ThwC, clip, flow.stages) for clip in clips]
  tokens = [resample.patchify(x, spec.patch) for x in levels]
  clean = np.concatenate(tokens)
  layout = _layout(clips, spec, *latent_ThwC.shape[1:3])
  coarse = np.zeros_like(clean)
  if stage > 0:
    up = resample.up(resample.down(levels[-1]), flow.upsample)
    coarse[layout.is_target] = resample.patchify(up, spec.patch)
  weight = layout.is_target / np.float32(tokens[-1].size)
  return Segment(
    clean,
    coarse,
    layout.frame,
    layout.yx,
    layout.is_target,
    weight.astype(np.float32),
    stage,
    prompt.text,
    prompt.pooled,
  )


def _at_level(x: np.ndarray, clip: history.Clip, stages: int) -> np.ndarray:
  x = x[clip.start : clip.stop]
  for _ in range(stages - 1 - clip.level):
    x = resample.down(x)
  return x


@functools.lru_cache(maxsize=128)
def _layout(clips, spec: TokenSpec, height: int, width: int) -> history.Layout:
  return history.layout(
    clips,
    spec.flow.stages,
    clips[-1].stop,
    height,
    width,
    spec.patch,
    spec.positions,
    spec.table_size,
  )


def pack_row(
  parts: Sequence[Segment],
  latent_tokens: int,
  text_tokens: int,
  max_segments: int,
  index: int = 0,
) -> Row:
  """Packs segments to the static shapes of a row; the rest is padding.

  Returns:
    clean, coarse [L, D], segment, frame [L], yx [L, 2], is_target, weight [L],
    stage [S] (-1: unused), text [M, E], text_segment [M], pooled [S, P],
    joint [L + M], index []. Segments are numbered from 1 as given.

  Raises:
    ValueError: the segments exceed a budget, or their texts differ in dtype.
  """
  latents = [len(s.clean) for s in parts]
  texts = [len(s.text) for s in parts]
  budgets = {
    "latent tokens": (sum(latents), latent_tokens),
    "text tokens": (sum(texts), text_tokens),
    "segments": (len(parts), max_segments),
  }
  for name, (used, limit) in budgets.items():
    if used > limit:
      raise ValueError(f"{used} {name} exceed the {limit} of a row.")
  # the dtype of a batch decides which program runs, on every process the same
  if len(kinds := {s.text.dtype.name for s in parts}) > 1:
    raise ValueError(
      f"texts of {' and '.join(sorted(kinds))} in one row; encode all of them "
      "alike, the null prompt as well."
    )
  fill = lambda size, name: _filled(size, [getattr(s, name) for s in parts])
  number = np.arange(1, len(parts) + 1, dtype=np.int32)
  row = {
    name: fill(latent_tokens, name)
    for name in ("clean", "coarse", "frame", "yx", "is_target", "weight")
  }
  stage = np.full(max_segments, -1, np.int32)
  stage[: len(parts)] = [s.stage for s in parts]
  pooled = np.zeros((max_segments, len(parts[0].pooled)), np.float32)
  pooled[: len(parts)] = [s.pooled for s in parts]
  row |= {
    "segment": _filled(latent_tokens, [np.repeat(number, latents)]),
    "text_segment": _filled(text_tokens, [np.repeat(number, texts)]),
    "stage": stage,
    "text": fill(text_tokens, "text"),
    "pooled": pooled,
    "index": np.int32(index),
  }
  row["joint"] = history.joint_order(
    row["segment"], row["frame"], row["text_segment"]
  )
  return row


def _filled(size: int, parts: Sequence[np.ndarray]) -> np.ndarray:
  """The parts one after the other, then zeros up to `size`."""
  out = np.zeros((size, *parts[0].shape[1:]), parts[0].dtype)
  used = sum(map(len, parts))
  np.concatenate(parts, out=out[:used])
  return out


def describe(row: Row) -> dict[str, Any]:
  """How full a row or a batch is: shares of tokens, number of segments."""
  latent, text = row["segment"] > 0, row["text_segment"] > 0
  valid = latent.sum() + text.sum()
  return {
    "fill": float(valid / (latent.size + text.size)),
    "segments": int((row["stage"] >= 0).sum()),
  }
