"""Training samples with recorded draws, packed as ours are.

The released code splits a batch into columns, one a stage or more; row r is in
column r mod n. A column draws u and the corruption of its samples, then the
noise of the history's clips, newest first; the target's noise is a level of one
noise pyramid.

Legend: T h w C latents, L tokens, D values of a token.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from pyramid_jax.config import FlowConfig
from pyramid_jax.data import rows as rows_lib
from pyramid_jax.data.draws import segment_clips
from pyramid_jax.data.latents import NullPrompt
from pyramid_jax.flow import objective, resample
from pyramid_jax.flow.schedule import Schedule
from pyramid_jax.verify.file import Reference

NO_PROMPT = NullPrompt(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))


@dataclasses.dataclass(frozen=True)
class Sample:
  """One sample of a batch: its segment and its draws."""

  column: int
  row: int  # of the column
  segment: rows_lib.Segment
  noise: np.ndarray  # [n, D], one for every token
  u: float
  corruption: float
  shapes: tuple[tuple[int, int, int], ...]  # of its clips, T h w in tokens
  patch: int


def flow_of(
  pipe: dict[str, Any], plan: Schedule, case: dict[str, Any]
) -> tuple[FlowConfig, list[int], list[int] | None, float]:
  """Settings, columns of each stage, units of each stage, corruption."""
  temporal = case.get("temporal", case.get("tp", True))
  flow = FlowConfig(
    stages=plan.stages,
    stage_range=plan.stage_range,
    frames_per_unit=pipe.get("frame_per_unit", 1),
    history="pyramid" if temporal else "none",
  )
  ratios = pipe.get("sample_ratios", [1] * plan.stages)
  units = case["units"] if temporal else None
  return flow, ratios, units, pipe.get("corrupt_ratio", 1 / 3)


def recorded(
  file: Reference,
  latent_BThwC: np.ndarray,
  settings: tuple,
  patch: int,
  *,
  first_draw: int = 0,
  prompts: Sequence[NullPrompt] | None = None,
  positions: str = "interpolated",
  table_size: int | None = None,
) -> Iterator[Sample]:
  """Every sample of a file, column by column; all draws are used up."""
  flow, ratios, units, limit = settings
  spec = rows_lib.TokenSpec(flow, patch, positions, table_size)
  draws = iter(file.numbered("in/draw")[first_draw:])
  noise = np.moveaxis(next(draws), 1, -1)
  stages = np.repeat(np.arange(len(ratios)), ratios)
  for column, stage in enumerate(map(int, stages)):
    mine = slice(column, None, len(stages))
    u, corruption = next(draws), next(draws) * limit
    latents = latent_BThwC[mine]
    frames = latents.shape[1]
    last = (frames - 1) // flow.frames_per_unit
    unit = last if units is None else min(units[stage] - 1, last)
    clips = segment_clips(unit, stage, flow)
    level = resample.noise_pyramid(noise[mine], flow.stages)[stage]
    newest_first = [level[:, clips[-1].start : clips[-1].stop]]
    newest_first += [np.moveaxis(next(draws), 1, -1) for _ in clips[:-1]]
    tokens = [resample.patchify(x, patch) for x in reversed(newest_first)]
    shapes = tuple(
      (x.shape[1], x.shape[2] // patch, x.shape[3] // patch)
      for x in reversed(newest_first)
    )
    for i, latent in enumerate(latents):
      prompt = prompts[column + i * len(stages)] if prompts else NO_PROMPT
      yield Sample(
        column,
        i,
        rows_lib.segment(latent, unit, stage, prompt, spec),
        np.concatenate([x[i] for x in tokens]),
        float(u[i]),
        float(corruption[i]),
        shapes,
        patch,
      )
  if next(draws, None) is not None:
    raise ValueError(f"{file.path} has more draws than its samples need.")


def packed(samples: Sequence[Sample]) -> tuple[dict, objective.Draws]:
  """All samples in one row, and their draws."""
  parts = [s.segment for s in samples]
  L, M = (sum(len(getattr(p, k)) for p in parts) for k in ("clean", "text"))
  row = rows_lib.pack_row(parts, L, M, len(parts))
  each = lambda key: np.array([getattr(s, key) for s in samples], np.float32)
  draws = objective.Draws(
    jnp.asarray(np.concatenate([s.noise for s in samples]), jnp.float32)[None],
    jnp.asarray(each("u"))[None],
    jnp.asarray(each("corruption"))[None],
  )
  return {k: jnp.asarray(v)[None] for k, v in row.items()}, draws


def unpacked(
  tokens_LD, rows: dict, samples: Sequence[Sample], number: int
) -> list[np.ndarray]:
  """The clips [C, T, H, W] of a sample from the row's tokens."""
  sample = samples[number]
  mine = np.asarray(tokens_LD)[np.asarray(rows["segment"])[0] == number + 1]
  clips, at = [], 0
  for T, h, w in sample.shapes:
    n = T * h * w
    clips.append(
      rearrange(
        mine[at : at + n],
        "(t h w) (p q c) -> c t (h p) (w q)",
        t=T,
        h=h,
        p=sample.patch,
        q=sample.patch,
      )
    )
    at += n
  return clips
