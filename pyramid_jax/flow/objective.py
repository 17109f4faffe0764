"""The pyramid flow matching loss on packed rows.

With n the noise, and per segment the stage's sigmas and a ratio in (0, 1]:

  start  = sigma_start n + (1 - sigma_start) Up(Down(x1))        Eq. 9, 10
  end    = sigma_end   n + (1 - sigma_end)   Down(x1)
  x      = ratio start + (1 - ratio) end                         Eq. 5
  target = start - end                                           Eq. 11
  history: c n' + (1 - c) Down(x1), c ~ U[0, 1/3]                Sec. 3.3
  loss   = mean over segments of the mean of (v - target)^2      Eq. 11, 16

sigma = 1 - t of the paper, and the velocity points from data to noise, as in
the released weights. A target and a history token never coincide, so one noise
array serves both. Everything is elementwise on [B, L, D]; noise that is drawn
per token has the law of the released code's noise pyramid.

Start and end share n: the paper couples them so that paths are straight (Sec.
3.2, before Eq. 9). Uncoupled (an ablation), `end` has a noise of its own; each
of the two has the same law as before, their pair has not.

Legend: B rows, L tokens, D = p p C values of a token, S segments, K stages,
N training timesteps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pyramid_jax.flow.schedule import Schedule

Rows = Mapping[str, jax.Array]


class Draws(NamedTuple):
  """All randomness of a batch.

  Attributes:
    noise: [B, L, D] unit normal.
    u: [B, S] in [0, 1), says which timestep.
    corruption: [B, S] share of noise in the history.
    end_noise: [B, L, D] unit normal, of the end alone; None: `noise` is its
      noise as well.
  """

  noise: jax.Array
  u: jax.Array
  corruption: jax.Array
  end_noise: jax.Array | None = None


class TrainingInputs(NamedTuple):
  """What the model gets, and the velocity that it should answer.

  Attributes:
    x: [B, L, D] float32, 0 on padding.
    target: [B, L, D] float32, 0 on what is no target.
    timestep: [B, S] float32 in 0..1000.
  """

  x: jax.Array
  target: jax.Array
  timestep: jax.Array


class LossSums(NamedTuple):
  """Sums that may be added up over rows, microbatches and devices.

  Attributes:
    loss: [K] float32, sum over a stage's segments of their mean squared error.
    segments: [K] float32, how many.
  """

  loss: jax.Array
  segments: jax.Array

  def mean(self) -> jax.Array:
    """The loss: the mean over all segments."""
    return self.loss.sum() / jnp.maximum(self.segments.sum(), 1)

  def stage_means(self) -> jax.Array:
    """[K] the loss of each stage, NaN where a stage had no segment."""
    return self.loss / jnp.where(self.segments > 0, self.segments, jnp.nan)


def draw(
  key: jax.Array,
  rows: Rows,
  max_corruption: float = 1 / 3,
  coupled: bool = True,
) -> Draws:
  """Draws what a batch needs, row by row.

  A row's draws depend on the key and on its global number `rows["index"]`
  alone, not on the batch or the mesh it is in. Uncoupled, the others are the
  same as coupled.
  """
  _, length, size = rows["clean"].shape
  segments = rows["stage"].shape[1]

  def one(index):
    noise, u, corruption = jax.random.split(jax.random.fold_in(key, index), 3)
    end = jax.random.fold_in(noise, 1)
    return Draws(
      jax.random.normal(noise, (length, size)),
      jax.random.uniform(u, (segments,)),
      max_corruption * jax.random.uniform(corruption, (segments,)),
      None if coupled else jax.random.normal(end, (length, size)),
    )

  return jax.vmap(one)(rows["index"])


def training_inputs(
  rows: Rows, draws: Draws, schedule: Schedule
) -> TrainingInputs:
  """Noises a batch of packed rows (equations in the module's docstring).

  Args:
    rows: `clean`, `coarse` [B, L, D], `segment` [B, L] (1.., 0 = padding),
      `is_target` [B, L], `stage` [B, S] (-1 = unused).
    draws: see `draw`.
    schedule: of the pyramid.
  """
  steps = len(schedule.ratios)
  stage = jnp.maximum(rows["stage"], 0)
  index = jnp.minimum((steps * draws.u).astype(jnp.int32), steps - 1)

  def token(value_BS):  # the value of each token's segment, [B, L, 1]
    slot = jnp.maximum(rows["segment"] - 1, 0)
    return jnp.take_along_axis(value_BS, slot, axis=1)[..., None]

  def table(values):
    return jnp.asarray(values, jnp.float32)

  sigma_start = token(table(schedule.start_sigma)[stage])
  sigma_end = token(table(schedule.end_sigma)[stage])
  ratio = token(table(schedule.ratios)[index])
  corruption = token(draws.corruption)

  noise, clean = draws.noise, rows["clean"].astype(jnp.float32)
  start = sigma_start * noise + (1 - sigma_start) * rows["coarse"]
  end_noise = noise if draws.end_noise is None else draws.end_noise
  end = sigma_end * end_noise + (1 - sigma_end) * clean
  x = ratio * start + (1 - ratio) * end
  history = corruption * noise + (1 - corruption) * clean

  is_target = rows["is_target"][..., None]
  valid = rows["segment"][..., None] > 0
  return TrainingInputs(
    x=jnp.where(is_target, x, jnp.where(valid, history, 0)),
    target=jnp.where(is_target, start - end, 0),
    timestep=table(schedule.timesteps)[stage, index],
  )


def loss_sums(
  velocity_BLD: jax.Array, target_BLD: jax.Array, rows: Rows, stages: int
) -> LossSums:
  """Squared error of a batch, by stage (paper Eq. 11, 16).

  `rows["weight"]` is 1 / (target values of the token's segment) on targets and
  0 elsewhere, so a segment counts the same however many tokens it has and
  however the rows are packed.
  """
  # Padding may hold anything, even NaN, which a zero weight would not stop.
  difference = jnp.where(
    rows["is_target"][..., None],
    velocity_BLD.astype(jnp.float32) - target_BLD,
    0.0,
  )
  error = rows["weight"] * jnp.square(difference).sum(-1)
  slot = jnp.maximum(rows["segment"] - 1, 0)
  stage_BL = jnp.take_along_axis(rows["stage"], slot, axis=1)
  here = jnp.arange(stages)
  loss = jnp.where(stage_BL[..., None] == here, error[..., None], 0.0)
  segments = rows["stage"][..., None] == here
  return LossSums(loss.sum((0, 1)), segments.sum((0, 1), dtype=jnp.float32))
