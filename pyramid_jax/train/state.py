"""What a training run carries from step to step, and where it lies."""

import itertools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pyramid_jax import sharding
from pyramid_jax.models.pure import Params, Pure


class Trainee(NamedTuple):
  """A network and what trains it."""

  model: Pure
  tx: optax.GradientTransformation


@flax.struct.dataclass
class TrainState:
  """A pytree of the whole run.

  Attributes:
    step: int32, steps taken; step n reads batch n of the data.
    params: float32.
    ema: their moving average, float32.
    opt: the optimizer's state.
    skipped: int32, steps whose loss or gradient was not finite; they changed
      nothing else.
    last_skipped: int32, the latest of them, -1 if none.
    adversary: params and opt of a discriminator; empty without one.
  """

  step: jax.Array
  params: Params
  ema: Params
  opt: Any
  skipped: jax.Array
  last_skipped: jax.Array
  adversary: dict[str, Any]


def abstract(
  model: Pure,
  tx: optax.GradientTransformation,
  adversary: Trainee | None = None,
) -> TrainState:
  """The shapes of a state; allocates nothing."""
  count = jax.ShapeDtypeStruct((), jnp.int32)
  opt = jax.eval_shape(tx.init, model.shapes)
  other = {}
  if adversary:
    shapes = adversary.model.shapes
    other = {
      "params": shapes,
      "opt": jax.eval_shape(adversary.tx.init, shapes),
    }
  return TrainState(count, model.shapes, model.shapes, opt, count, count, other)


def shardings(
  model: Pure,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  adversary: Trainee | None = None,
) -> TrainState:
  """Where every array of a state lies: moments and EMA as their parameters."""
  whole = NamedSharding(mesh, PartitionSpec())
  shapes = abstract(model, tx, adversary)
  params, opt = _places(mesh, model, shapes.opt)
  other = {}
  if adversary:
    places = _places(mesh, adversary.model, shapes.adversary["opt"])
    other = dict(zip(("params", "opt"), places, strict=True))
  return TrainState(whole, params, params, opt, whole, whole, other)


def _places(mesh: Mesh, model: Pure, opt: Any) -> tuple[Params, Any]:
  """Shardings of a model's parameters and of its optimizer's state."""
  whole = NamedSharding(mesh, PartitionSpec())
  params = sharding.tree_shardings(mesh, model.shapes, model.axes)
  places = {
    _names(path): place
    for path, place in jax.tree_util.tree_leaves_with_path(params)
  }
  # moments stand in trees like that of the parameters
  return params, jax.tree_util.tree_map_with_path(
    lambda path, _: places.get(_names(path), whole), opt
  )


def _names(path: tuple) -> tuple[str, ...]:
  """The dictionary keys at the end of a path."""
  is_key = lambda part: isinstance(part, jax.tree_util.DictKey)
  keys = itertools.takewhile(is_key, reversed(path))
  return tuple(part.key for part in keys)[::-1]


def create(
  model: Pure,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
  params: Params | None = None,
  adversary: Trainee | None = None,
) -> TrainState:
  """A fresh state that is born in its place, never whole on one device.

  Its weights are `params` if they are given, else drawn.
  """
  place = shardings(model, tx, mesh, adversary)
  params = model.init(seed, place.params) if params is None else params
  other = {}
  if adversary:
    first = adversary.model.init(seed, place.adversary["params"])
    start = jax.jit(adversary.tx.init, out_shardings=place.adversary["opt"])
    other = {"params": first, "opt": start(first)}
  opt = jax.jit(tx.init, out_shardings=place.opt)(params)
  count = lambda n: jax.device_put(np.int32(n), place.step)
  return TrainState(
    count(0),
    params,
    jax.tree.map(jnp.copy, params),
    opt,
    count(0),
    count(-1),
    other,
  )


class Learned(NamedTuple):
  """What a discriminator is to learn of a step.

  Attributes:
    tx: its optimizer, whose rate is that of the run's step.
    grads: of its loss.
    on: whether it learns at all.
  """

  tx: optax.GradientTransformation
  grads: Params
  on: jax.Array


def update(
  state: TrainState,
  grads: Params,
  loss: jax.Array,
  tx: optax.GradientTransformation,
  ema_decay: float,
  adversary: Learned | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step; a non-finite loss or gradient changes no weight.

  The EMA's decay grows from 0.1 as (1 + n) / (10 + n) up to `ema_decay`, so an
  average over a short run does not keep the initial weights.

  Returns:
    the next state, and the gradient norms before clipping.
  """
  norms = {"grad_norm": optax.tree.norm(grads)}
  if adversary:
    norms["adversary_grad_norm"] = optax.tree.norm(adversary.grads)
  good = jnp.isfinite(loss)
  for norm in norms.values():
    good &= jnp.isfinite(norm)
  params, opt = _stepped(tx, grads, state.opt, state.params)
  decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
  ema = optax.incremental_update(params, state.ema, 1 - decay)
  other = state.adversary
  if adversary:
    stepped = _stepped_at(
      state.step, adversary.tx, adversary.grads, other["opt"], other["params"]
    )
    stepped = dict(zip(("params", "opt"), stepped, strict=True))
    other = _chosen(good & adversary.on, stepped, other)
  return TrainState(
    step=state.step + 1,
    params=_chosen(good, params, state.params),
    ema=_chosen(good, ema, state.ema),
    opt=_chosen(good, opt, state.opt),
    skipped=state.skipped + ~good,
    last_skipped=jnp.where(good, state.last_skipped, state.step),
    adversary=other,
  ), norms


def _stepped(tx, grads, opt, params):
  updates, opt = tx.update(grads, opt, params)
  return optax.apply_updates(params, updates), opt


def _stepped_at(step, tx, grads, opt, params):
  """`_stepped` at the rate of a step of the run.

  The optimizer itself counts the steps in which it learned something.
  """
  is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)

  def change(count, *trees):
    """The first tree with what `count` makes of the others in its schedules."""
    return jax.tree.map(
      lambda x, *more: x._replace(count=count(*more)) if is_schedule(x) else x,
      *trees,
      is_leaf=is_schedule,
    )

  params, new = _stepped(tx, grads, change(lambda: step, opt), params)
  return params, change(lambda old: old.count + 1, new, opt)


def _chosen(which: jax.Array, new: Any, old: Any) -> Any:
  return jax.tree.map(lambda n, o: jnp.where(which, n, o), new, old)
