"""The training step of the diffusion transformer.

Legend: B rows of a step.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pyramid_jax.attention import tpu
from pyramid_jax.config import Config, ConfigError
from pyramid_jax.data.sizes import schedule_of
from pyramid_jax.flow import objective
from pyramid_jax.flow.schedule import Schedule
from pyramid_jax.models.dit import make_dit
from pyramid_jax.models.pure import Pure
from pyramid_jax.train.accumulate import accumulate
from pyramid_jax.train.optimizer import make_optimizer
from pyramid_jax.train.program import Program
from pyramid_jax.train.state import TrainState, update

Rows = Mapping[str, jax.Array]


class Settings(NamedTuple):
  """What the step needs of a config."""

  max_corruption: float
  coupled: bool
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

  def step(state: TrainState, rows: Rows, key: jax.Array):
    segments = (rows["stage"] >= 0).sum(dtype=jnp.float32)

    def of(part):
      draws = objective.draw(
        key, part, settings.max_corruption, settings.coupled
      )
      return gradient(model, schedule, state.params, part, draws, segments)

    sums, grads = accumulate(of, rows, settings.microbatches)
    loss = sums.mean()
    state, metrics = update(state, grads, loss, tx, settings.ema_decay)
    return state, {
      "loss": loss,
      "stage_loss": sums.loss,
      "stage_segments": sums.segments,
      **metrics,
    }

  return step


def check_row(config: Config, platform: str, parts: int = 1):
  """Refuses rows that attention on a platform cannot take.

  `parts` is into how many a mesh splits the tokens of latents and of text, each
  of which is lengthened to a multiple.

  Raises:
    ConfigError: with the limit and what to do.
  """
  data = config.latents
  if platform == "tpu" and config.model.attention in ("auto", "tpu"):
    try:
      each = (data.latent_tokens, data.text_tokens)
      tpu.check_length(sum(-(-n // parts) * parts for n in each))
    except ValueError as error:
      raise ConfigError(str(error)) from error


def make_program(config: Config) -> Program:
  """Model, optimizer and step of a config; needs no data.

  Raises:
    ConfigError: settings that make no model or pyramid, or rows that the
      microbatches do not divide.
  """
  train, rows = config.train, config.latents.rows
  if rows % train.microbatches:
    raise ConfigError(
      f"config.latents.rows {rows} is not a multiple of "
      f"config.train.microbatches {train.microbatches}; nearest: "
      f"{-(-rows // train.microbatches) * train.microbatches} rows."
    )
  schedule = schedule_of(config.flow)
  model = make_dit(config.model)
  tx = make_optimizer(config.optimizer, model.axes, (train.steps, 1.0))
  settings = Settings(
    config.flow.max_corruption,
    config.flow.coupled,
    train.microbatches,
    config.optimizer.ema,
  )
  return Program(model, tx, make_step(model, schedule, tx, settings))
