"""What the sampler needs before the device sees anything: sizes, draws, rows.

All rows of a sampling batch hold one segment. Their tokens differ from unit to
unit only in integers and positions, which the host computes here and the
compiled program takes as arguments (sampler.py).

Legend: B samples, R rows (2B with guidance: negative prompts, then positive),
L latent tokens, M text tokens, J = M + L, T frames of the video, F of a unit,
H W C full-resolution latents, K stages.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.flow import history
from pyramid_jax.flow.renoise import block_noise
from pyramid_jax.flow.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Plan:
  """What to generate, in latent frames and pixels.

  Attributes:
    frames: T, 1 + a multiple of `frames_per_unit`.
    height: H.
    width: W.
    channels: C.
    steps: Euler steps of each stage, first unit.
    later_steps: likewise, later units.
    guidance: scale of the first unit; 0 switches guidance off for all.
    later_guidance: scale of the later units.
    guidance_decay: subtracted from the scale per unit.
    min_guidance: where the decay stops.
    frames_per_unit: of the units after the first.
    patch: pixels a side of a token.
    upsample: Up of the stage jump.
    renoise: whether the jump adds corrective noise, or rescales only
      (ablation: blocks stay visible).
    positions: see `history.layout`.
    table_size: see `history.layout`.
    full_sequence: all frames at once, without history.
    multiple: J is padded to a multiple of this (tiles of a kernel).
  """

  frames: int
  height: int
  width: int
  channels: int = 16
  steps: tuple[int, ...] = (20, 20, 20)
  later_steps: tuple[int, ...] = (10, 10, 10)
  guidance: float = 7.0
  later_guidance: float = 5.0
  guidance_decay: float = 0.0
  min_guidance: float = 2.0
  frames_per_unit: int = 1
  patch: int = 2
  upsample: str = "nearest"
  renoise: bool = True
  positions: str = "interpolated"
  table_size: int | None = None
  full_sequence: bool = False
  multiple: int = 1

  @property
  def guided(self) -> bool:
    """Whether rows come in pairs, negative and positive prompt."""
    return self.guidance > 0

  @property
  def units(self) -> int:
    """Number of autoregressive steps.

    Raises:
      ValueError: frames that make no whole units.
    """
    if self.full_sequence:
      return 1
    return history.unit_count(self.frames, self.frames_per_unit)

  def unit_frames(self, unit: int) -> tuple[int, int]:
    """Frames [start, stop) of a unit."""
    if self.full_sequence:
      return 0, self.frames
    return history.unit_frames(unit, self.frames_per_unit)

  def clips(self, unit: int, stage: int) -> tuple[history.Clip, ...]:
    """History and target of a unit at a stage."""
    if self.full_sequence:
      return history.full_sequence(self.frames, stage)
    return history.clips(unit, stage, self.frames_per_unit)

  def guidance_scale(self, unit: int) -> float:
    """The scale of a unit: its base, less the decay, not under the minimum."""
    scale = self.later_guidance if unit else self.guidance
    if self.guidance_decay:
      scale = max(scale - self.guidance_decay * unit, self.min_guidance)
    return scale


class UnitNoise(NamedTuple):
  """The draws of one unit.

  Attributes:
    start: [B, F, H, W, C] unit normal at full resolution; the coarsest level
      of its noise pyramid is where generation starts.
    blocks: [B, F, H_k, W_k, C] corrective noise of the jump to stage 1 .. K-1;
      0 without it.
  """

  start: jax.Array
  blocks: tuple[jax.Array, ...]


def draw_noise(
  keys: jax.Array, unit: int, plan: Plan, schedule: Schedule
) -> UnitNoise:
  """Draws a unit's noise, each sample's from its own key alone.

  Args:
    keys: [B] one a sample.
    unit: 0, 1, ...
    plan: what is generated.
    schedule: of the pyramid.
  """
  start, stop = plan.unit_frames(unit)
  shape = (stop - start, plan.height, plan.width, plan.channels)
  noise = _draw(keys, unit, shape, schedule)
  if not plan.renoise:
    return noise._replace(blocks=tuple(map(jnp.zeros_like, noise.blocks)))
  return noise


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(keys, unit, shape, schedule):
  frames, height, width, channels = shape
  K = schedule.stages

  def one(key):
    parts = jax.random.split(jax.random.fold_in(key, unit), K)
    sizes = [
      (frames, height >> K - 1 - k, width >> K - 1 - k, channels)
      for k in range(1, K)
    ]
    blocks = [
      block_noise(jax.random.normal(part, size), schedule.gamma)
      for part, size in zip(parts[1:], sizes, strict=True)
    ]
    return UnitNoise(jax.random.normal(parts[0], shape), tuple(blocks))

  return jax.vmap(one)(keys)


def bucket(unit: int, units: int) -> tuple[int, int]:
  """Units (first, last) that share a compiled program with `unit`.

  0; 1 to 3; 4 to 7; 8 to 15; 16 to 31; ...
  """
  if unit == 0:
    return 0, 0
  first = 1 << unit.bit_length() - 1
  return (
    (1, min(3, units - 1))
    if first < 4
    else (first, min(2 * first - 1, units - 1))
  )


def unit_rows(
  plan: Plan, stages: int, unit: int, text_segment: np.ndarray
) -> tuple[dict[str, np.ndarray], ...]:
  """The rows of a unit at every stage, as integers and positions on the host.

  A row holds the history, padding up to the longest of the unit's bucket, then
  the target, so that the target's place is static.

  Args:
    plan: what is generated.
    stages: K.
    unit: 0, 1, ...
    text_segment: [R, M] 1 = valid, 0 = padding.

  Returns:
    For each stage `segment`, `frame` [L], `yx` [L, 2], `joint` [R, J] as in a
    training row, and `source` [L - target tokens], the history's tokens in the
    pool.
  """
  last = bucket(unit, plan.units)[1]
  full = plan.height * plan.width // plan.patch**2
  rows = []
  for stage in range(stages):
    layout = history.layout(
      plan.clips(unit, stage),
      stages,
      plan.frames,
      plan.height,
      plan.width,
      plan.patch,
      plan.positions,
      plan.table_size,
    )
    past, tokens = int((~layout.is_target).sum()), len(layout.frame)
    longest = history.token_count(plan.clips(last, stage), full, stages)
    joint = longest + text_segment.shape[1]
    padding = longest - tokens + -joint % plan.multiple
    insert = lambda x, past=past, padding=padding: np.concatenate(
      [x[:past], np.zeros((padding, *x.shape[1:]), x.dtype), x[past:]]
    )
    row = dict(
      segment=insert(np.ones(tokens, np.int32)),
      frame=insert(layout.frame),
      yx=insert(layout.yx),
      source=insert(layout.source)[: past + padding],
    )
    spread = lambda x: np.broadcast_to(x, (len(text_segment), len(x)))
    row["joint"] = history.joint_order(
      spread(row["segment"]), spread(row["frame"]), text_segment
    )
    rows.append(row)
  return tuple(rows)
