"""What a training run computes, apart from its data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from pyramid_jax import sharding
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.train import state as state_lib
from pyramid_jax.train.state import Trainee, TrainState


@dataclasses.dataclass(frozen=True)
class Program:
  """A model, its optimizer and a step.

  The training loop runs it; the plan compiles the same for a machine that is
  not there.

  Attributes:
    model: the network.
    tx: its optimizer.
    step: (state, batch, key) -> (state, metrics), pure, not jitted.
    adversary: a discriminator that learns beside it.
    frozen: networks that only judge; the step takes their parameters by name.
  """

  model: Pure
  tx: optax.GradientTransformation
  step: Callable
  adversary: Trainee | None = None
  frozen: Mapping[str, Pure] = dataclasses.field(default_factory=dict)

  def abstract(self) -> TrainState:
    """The shapes of the state; allocates nothing."""
    return state_lib.abstract(self.model, self.tx, self.adversary)

  def shardings(self, mesh: jax.sharding.Mesh) -> TrainState:
    """Where every array of the state lies."""
    return state_lib.shardings(self.model, self.tx, mesh, self.adversary)

  def create(
    self, mesh: jax.sharding.Mesh, seed: int, params: Params | None = None
  ) -> TrainState:
    """A fresh state, with the given weights or drawn ones."""
    return state_lib.create(
      self.model, self.tx, mesh, seed, params, self.adversary
    )

  def jitted(self, mesh: jax.sharding.Mesh) -> Callable:
    """The step; its state stays in its place and is written over."""
    places = self.shardings(mesh)
    return jax.jit(
      self.step, donate_argnums=0, out_shardings=(places, places.step)
    )

  def frozen_shardings(self, mesh: jax.sharding.Mesh) -> dict[str, Params]:
    """Where the parameters of the frozen networks lie."""
    return {
      name: sharding.tree_shardings(mesh, model.shapes, model.axes)
      for name, model in self.frozen.items()
    }

  def arguments(
    self, mesh: jax.sharding.Mesh, batch: Mapping[str, Any]
  ) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """The shapes of what the step takes in their places; allocates nothing.

    Args:
      mesh: to lie on.
      batch: shape and dtype of each array, rows first.

    Returns:
      (state, batch, key), and the frozen parameters by name.
    """
    rows = sharding.sharding(mesh, "batch")
    key = jax.eval_shape(lambda: jax.random.key(0))
    frozen = {name: model.shapes for name, model in self.frozen.items()}
    return (
      jax.tree.map(_placed, self.abstract(), self.shardings(mesh)),
      {k: _placed(v, rows) for k, v in batch.items()},
      _placed(key, sharding.sharding(mesh)),
    ), jax.tree.map(_placed, frozen, self.frozen_shardings(mesh))


def _placed(shape, place) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
