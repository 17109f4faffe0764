"""AdamW as the paper's runs use it."""

import itertools

import jax
import optax

from pyramid_jax.config import ConfigError, OptimizerConfig


def learning_rate(config: OptimizerConfig, *steps: int) -> optax.Schedule:
  """Linear warm-up, then constant, or a cosine that reaches 0 at `steps`.

  A run in several phases gives the steps of each; every phase has the whole
  schedule for itself.

  Raises:
    ConfigError: an unknown schedule, or a warm-up longer than the run.
  """
  if len(steps) > 1:
    return optax.join_schedules(
      [learning_rate(config, n) for n in steps],
      list(itertools.accumulate(steps))[:-1],
    )
  (steps,) = steps
  if config.schedule not in ("constant", "cosine"):
    raise ConfigError(
      f"optimizer.schedule is {config.schedule!r}; it must be 'constant' or "
      "'cosine'."
    )
  cosine = config.schedule == "cosine"
  most = steps - 1 if cosine else steps
  if config.warmup > most:
    raise ConfigError(
      f"optimizer.warmup {config.warmup} is too long for a run of {steps} "
      f"steps with the schedule {config.schedule!r}; at most {most}."
    )
  rate, warmup = config.learning_rate, config.warmup
  if cosine:
    return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
  if not warmup:  # optax would stay at 0
    return optax.constant_schedule(rate)
  return optax.warmup_constant_schedule(0.0, rate, warmup)


def make_optimizer(
  config: OptimizerConfig, *steps: int
) -> optax.GradientTransformation:
  """Gradient clipping by global norm, then AdamW.

  Weight decay acts on kernels only: norms' scales, biases and embeddings
  are left alone. For `steps` see `learning_rate`.
  """
  return optax.chain(
    optax.clip_by_global_norm(config.clip),
    optax.adamw(
      learning_rate(config, *steps),
      b1=config.beta1,
      b2=config.beta2,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      mask=is_kernel,
    ),
  )


def is_kernel(params):
  """True at the leaves named "kernel", a tree like `params`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == "kernel", params
  )
