"""The training step of the diffusion transformer.

Legend: B rows of a step, n microbatches.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from pyramid_jax.flow import objective
from pyramid_jax.flow.schedule import Schedule
from pyramid_jax.models.pure import Pure
from pyramid_jax.sharding import RULES
from pyramid_jax.train.state import TrainState, update

Rows = Mapping[str, jax.Array]


class Settings(NamedTuple):
  """What the step needs of a config."""

  max_corruption: float
  microbatches: int
  ema_decay: float


def gradient(
  model: Pure,
  schedule: Schedule,
  params,
  rows: Rows,
  draws: objective.Draws,
  segments: jax.Array,
):
  """Loss sums of some rows and their share of the whole batch's gradient.

  Args:
    segments: how many segments the whole batch has; the gradients of its parts
      then add up to the gradient of the mean over its segments.
  """
  inputs = objective.training_inputs(rows, draws, schedule)

  def loss(params):
    velocity = model.apply(params, inputs.x, rows, inputs.timestep)
    sums = objective.loss_sums(velocity, inputs.target, rows, schedule.stages)
    return sums.loss.sum() / segments, sums

  (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return sums, grads


def make_step(
  model: Pure,
  schedule: Schedule,
  tx: optax.GradientTransformation,
  settings: Settings,
):
  """The function (state, rows, key) -> (state, metrics), to be jitted.

  The batch is taken in `microbatches` parts, one after the other; the result
  is that of one batch. Draws depend on the key and each row's number alone.

  Metrics, all float32: loss (mean over segments), stage_loss and
  stage_segments [K] (sums), grad_norm.
  """
  n = settings.microbatches

  def step(state: TrainState, rows: Rows, key: jax.Array):
    segments = (rows["stage"] >= 0).sum(dtype=jnp.float32)
    # Row b goes to part b mod n: every device keeps its own rows.
    parts = {k: rearrange(v, "(b n) ... -> n b ...", n=n) for k, v in rows.items()}

    def one(carry, part):
      part = {k: _batched(v) for k, v in part.items()}
      draws = objective.draw(key, part, settings.max_corruption)
      sums, grads = gradient(
        model, schedule, state.params, part, draws, segments
      )
      return jax.tree.map(jnp.add, carry, (sums, grads)), None

    K = schedule.stages
    zero = (
      objective.LossSums(jnp.zeros(K), jnp.zeros(K)),
      jax.tree.map(jnp.zeros_like, state.params),
    )
    if n == 1:
      (sums, grads), _ = one(zero, rows)
    else:
      (sums, grads), _ = jax.lax.scan(one, zero, parts)
    loss = sums.mean()
    state, metrics = update(state, grads, loss, tx, settings.ema_decay)
    return state, {
      "loss": loss,
      "stage_loss": sums.loss,
      "stage_segments": sums.segments,
      **metrics,
    }

  return step


def _batched(x: jax.Array) -> jax.Array:
  """Keeps the rows of a microbatch spread over the batch axes."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  spec = jax.sharding.PartitionSpec(RULES["batch"])
  return jax.lax.with_sharding_constraint(x, spec)
