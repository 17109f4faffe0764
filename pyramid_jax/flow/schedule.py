"""When each stage of the pyramid begins and ends, in noise and in time.

Notation. The paper's time t runs from noise (0) to data (1); here sigma = 1 - t
is the share of noise. Stage 0 is the coarsest, K-1 the full resolution (paper:
k = K-1-stage). Stage k starts at s_k and ends at e_k; a stage ends where the
plain flow would have arrived, and the next one starts a little noisier, so that
corrective noise can repair the blocks that upsampling made (renoise.py):

  e_{k+1} = s_k sqrt(1 - g) / ((1 - s_k) sqrt(-g) + s_k sqrt(1 - g))   Eq. 25

with the paper's g in [-1/3, 0]; g = -1/3 gives e_{k+1} = 2 s_k / (1 + s_k).
`gamma` here is -g, the positive value that released configs hold, and the
equation is used the other way round, from a stage's end to the next start.
"""

import dataclasses
import functools
import math

import numpy as np

_table = functools.partial(dataclasses.field, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Sigmas and timesteps of every stage, float64 on the host.

  Equal and hashed by its settings, so that it can be a static argument.

  Attributes:
    stages: K.
    stage_range: K + 1 bounds of the stages before the shift.
    shift: of the noise level.
    gamma: minus the off-diagonal covariance of the corrective noise.
    train_steps: N, timesteps of a stage in training.
    start_sigma: [K] noise at the start of a stage, corrected by Eq. 25.
    end_sigma: [K] noise at its end.
    original_start: [K] the end of the stage before, from where the jump leaves.
    span: [K, 2] the stage's part of the whole length of the flow.
    timesteps: [K, N] what the model is told, 1000 (noise) .. 0, per index.
    ratios: [N] share of a stage's start point, 1 - index / N.
  """

  stages: int
  stage_range: tuple[float, ...]
  shift: float
  gamma: float
  train_steps: int
  start_sigma: np.ndarray = _table()
  end_sigma: np.ndarray = _table()
  original_start: np.ndarray = _table()
  span: np.ndarray = _table()
  timesteps: np.ndarray = _table()
  ratios: np.ndarray = _table()


def training_sigmas(shift: float = 1.0, train_steps: int = 1000) -> np.ndarray:
  """Sigmas of the flow without a pyramid, [N], from 1 down to 1/N.

  A shift above 1 spends more of the time at high noise (SD3, Eq. 23).
  """
  sigma = np.arange(train_steps, 0, -1) / train_steps
  return shift * sigma / (1 + (shift - 1) * sigma)


def corrected_signal(signal: float, gamma: float) -> float:
  """Where a stage starts, given where the one before ended (Eq. 25 inverted).

  Both are shares of signal, 1 - sigma. At gamma = 0 the only start that fits
  is pure noise.
  """
  scale = math.sqrt(gamma)
  return signal * scale / (math.sqrt(1 + gamma) * (1 - signal) + scale * signal)


def make_schedule(
  stages: int = 3,
  stage_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0),
  shift: float = 1.0,
  gamma: float = 1 / 3,
  train_steps: int = 1000,
) -> Schedule:
  """Lays out the stages (paper Eq. 5-8, 25, 26).

  Args:
    stages: K.
    stage_range: K + 1 bounds from 0 (noise) to 1 (data), before the shift.
    shift: of the noise level, as in SD3; 1 leaves it.
    gamma: in [0, 1/3], the negative of the paper's.
    train_steps: N, the number of timesteps of a stage in training.

  Raises:
    ValueError: a value outside of its limits.
  """
  gamma = _check(stages, stage_range, shift, gamma, train_steps)
  sigma = np.append(training_sigmas(shift, train_steps), 0.0)
  bounds = sigma[[int(bound * train_steps) for bound in stage_range]]
  original_start, end = bounds[:-1], bounds[1:]
  start = np.array(
    [1.0] + [1 - corrected_signal(1 - s, gamma) for s in original_start[1:]]
  )
  # A stage gets as much of the time as it has of the flow's length.
  length = np.cumsum(start - end)
  share = np.concatenate([[0.0], length[:-1] / length[-1], [1.0]])
  times = (
    train_steps
    * sigma[np.minimum((share * train_steps).astype(int), train_steps - 1)]
  )
  return Schedule(
    stages=stages,
    stage_range=tuple(stage_range),
    shift=shift,
    gamma=gamma,
    train_steps=train_steps,
    start_sigma=start,
    end_sigma=end,
    original_start=original_start,
    span=np.stack([share[:-1], share[1:]], axis=1),
    timesteps=np.linspace(
      times[:-1], times[1:], train_steps, endpoint=False, axis=1
    ),
    ratios=1 - np.arange(train_steps) / train_steps,
  )


def inference_table(
  schedule: Schedule, stage: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
  """Timesteps [n] and sigmas [n + 1] of n Euler steps through a stage.

  Sigma runs from 1 to 0 inside every stage: it is the share of the stage's
  start point, not of noise.

  Raises:
    ValueError: no such stage, or fewer than one step.
  """
  if not 0 <= stage < schedule.stages:
    raise ValueError(
      f"stage {stage} is not one of 0..{schedule.stages - 1} (0 = coarsest)."
    )
  if steps < 1:
    raise ValueError(f"stage {stage} has {steps} steps; give it at least 1.")
  table, ratios = schedule.timesteps[stage], schedule.ratios
  return (
    np.linspace(table[0], table[-1], steps),
    np.append(np.linspace(ratios[0], ratios[-1], steps), 0.0),
  )


def _check(stages, stage_range, shift, gamma, train_steps) -> float:
  """Validates the arguments of `make_schedule`; returns gamma within bounds."""
  if stages < 1 or train_steps < 1:
    raise ValueError(
      f"stages {stages} and train_steps {train_steps} must be at least 1."
    )
  if len(stage_range) != stages + 1:
    raise ValueError(
      f"stage_range {tuple(stage_range)} has {len(stage_range)} bounds; "
      f"{stages} stages need {stages + 1}, from 0 to 1."
    )
  indices = [int(bound * train_steps) for bound in stage_range]
  rising = all(a < b for a, b in zip(indices, indices[1:], strict=False))
  if stage_range[0] != 0 or stage_range[-1] != 1 or not rising:
    raise ValueError(
      f"stage_range {tuple(stage_range)} must rise from 0 to 1, each stage by "
      f"at least 1/{train_steps}."
    )
  if not shift > 0:
    raise ValueError(f"shift {shift} must be above 0; 1 leaves the schedule.")
  # Values that went through float32 lie a little above 1/3.
  if not 0 <= gamma <= 1 / 3 + 1e-6:
    raise ValueError(
      f"gamma {gamma} is outside of [0, 1/3]. It is the negative of the "
      "paper's gamma; released models use 1/3."
    )
  return min(float(gamma), 1 / 3)
