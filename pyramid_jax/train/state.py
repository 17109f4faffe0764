"""What a training run carries from step to step, and where it lies."""

import itertools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pyramid_jax import sharding
from pyramid_jax.models.pure import Params, Pure


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
  """

  step: jax.Array
  params: Params
  ema: Params
  opt: Any
  skipped: jax.Array
  last_skipped: jax.Array


def abstract(model: Pure, tx: optax.GradientTransformation) -> TrainState:
  """The shapes of a state; allocates nothing."""
  count = jax.ShapeDtypeStruct((), jnp.int32)
  opt = jax.eval_shape(tx.init, model.shapes)
  return TrainState(count, model.shapes, model.shapes, opt, count, count)


def shardings(
  model: Pure, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Where every array of a state lies: moments and EMA as their parameters."""
  whole = NamedSharding(mesh, PartitionSpec())
  params = sharding.tree_shardings(mesh, model.shapes, model.axes)
  places = {
    _names(path): place
    for path, place in jax.tree_util.tree_leaves_with_path(params)
  }
  # moments stand in trees like that of the parameters
  opt = jax.tree_util.tree_map_with_path(
    lambda path, _: places.get(_names(path), whole), abstract(model, tx).opt
  )
  return TrainState(whole, params, params, opt, whole, whole)


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
) -> TrainState:
  """A fresh state that is born in its place, never whole on one device.

  Its weights are `params` if they are given, else drawn.
  """
  place = shardings(model, tx, mesh)
  params = model.init(seed, place.params) if params is None else params
  opt = jax.jit(tx.init, out_shardings=place.opt)(params)
  count = lambda n: jax.device_put(np.int32(n), place.step)
  return TrainState(
    count(0), params, jax.tree.map(jnp.copy, params), opt, count(0), count(-1)
  )


def update(
  state: TrainState,
  grads: Params,
  loss: jax.Array,
  tx: optax.GradientTransformation,
  ema_decay: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step; a non-finite loss or gradient changes no weight.

  The EMA's decay grows from 0.1 as (1 + n) / (10 + n) up to `ema_decay`, so an
  average over a short run does not keep the initial weights.

  Returns:
    the next state, and the gradient norm before clipping.
  """
  norm = optax.tree.norm(grads)
  good = jnp.isfinite(loss) & jnp.isfinite(norm)
  updates, opt = tx.update(grads, state.opt, state.params)
  params = optax.apply_updates(state.params, updates)
  decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
  ema = optax.incremental_update(params, state.ema, 1 - decay)
  keep = lambda new, old: jax.tree.map(
    lambda n, o: jnp.where(good, n, o), new, old
  )
  return TrainState(
    step=state.step + 1,
    params=keep(params, state.params),
    ema=keep(ema, state.ema),
    opt=keep(opt, state.opt),
    skipped=state.skipped + ~good,
    last_skipped=jnp.where(good, state.last_skipped, state.step),
  ), {"grad_norm": norm}
