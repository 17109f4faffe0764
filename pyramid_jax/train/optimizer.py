"""AdamW as the paper's runs use it, or Muon."""

import itertools

import jax
import optax

from pyramid_jax.config import ConfigError, OptimizerConfig
from pyramid_jax.models.pure import Params

# of the quintic iteration that makes a matrix orthogonal (arXiv:2502.16982)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def learning_rate(
  config: OptimizerConfig, *phases: tuple[int, float]
) -> optax.Schedule:
  """Linear warm-up, then constant, or a cosine that reaches 0 at the end.

  Args:
    phases: of the run, each with steps and a factor of the rate; every phase
      has the whole schedule for itself.

  Raises:
    ConfigError: an unknown schedule, or a warm-up longer than a phase.
  """
  ends = itertools.accumulate(steps for steps, _ in phases)
  return optax.join_schedules(
    [_one_phase(config, *phase) for phase in phases], list(ends)[:-1]
  )


def _one_phase(
  config: OptimizerConfig, steps: int, factor: float
) -> optax.Schedule:
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
  rate, warmup = factor * config.learning_rate, config.warmup
  if cosine:
    return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
  if not warmup:  # optax would stay at 0
    return optax.constant_schedule(rate)
  return optax.warmup_constant_schedule(0.0, rate, warmup)


def make_optimizer(
  config: OptimizerConfig, axes: Params, *phases: tuple[int, float]
) -> optax.GradientTransformation:
  """Gradient clipping by global norm, then AdamW or Muon.

  Muon (arXiv:2502.16982) orthogonalizes the momentum of every kernel as a
  matrix, scaled so that AdamW's learning rates fit, and leaves the rest to
  Adam with Nesterov's momentum. Weight decay acts on kernels only: norms'
  scales, biases and embeddings are left alone.

  Args:
    axes: names of the parameters' dimensions, `Pure.axes`.
    phases: steps and factor of each, see `learning_rate`.

  Raises:
    ConfigError: an unknown method; as `learning_rate`.
  """
  rate = learning_rate(config, *phases)
  if config.method == "adamw":
    method = optax.adamw(
      rate,
      b1=config.beta1,
      b2=config.beta2,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      mask=is_kernel,
    )
  elif config.method == "muon":
    method = optax.contrib.muon(
      rate,
      # as a list they are scanned, not unrolled: on CPU half the update's time
      ns_coeffs=(NEWTON_SCHULZ,) * config.muon_iterations,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      adam_b1=config.beta1,
      adam_b2=config.beta2,
      muon_weight_dimension_numbers=matrices(axes),
      consistent_rms=0.2,  # the size of AdamW's updates
    )
  else:
    raise ConfigError(
      f"optimizer.method is {config.method!r}; it must be 'adamw' or 'muon'."
    )
  return optax.chain(optax.clip_by_global_norm(config.clip), method)


def is_kernel(params: Params) -> Params:
  """True at the leaves named "kernel", a tree like `params`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == "kernel", params
  )


def matrices(axes: Params) -> Params:
  """Which dimensions of a kernel are the rows and columns of a matrix.

  The last is what comes out, all others go in; stacked layers are so many
  matrices. None where there is no kernel.
  """

  def one(path, names: tuple[str | None, ...]):
    if path[-1].key != "kernel":
      return None
    *inside, last = range(len(names))
    return optax.contrib.MuonDimensionNumbers(
      [i for i in inside if names[i] != "layers"], [last]
    )

  return jax.tree_util.tree_map_with_path(
    one, axes, is_leaf=lambda x: isinstance(x, tuple)
  )
