"""What a training run computes, apart from its data."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from pyramid_jax import sharding
from pyramid_jax.models.pure import Pure
from pyramid_jax.train import state as state_lib


class Program(NamedTuple):
  """A model, its optimizer and a step.

  The training loop runs it; the plan compiles the same for a machine that is
  not there.

  Attributes:
    model: the network.
    tx: its optimizer.
    step: (state, batch, key) -> (state, metrics), pure, not jitted.
  """

  model: Pure
  tx: optax.GradientTransformation
  step: Callable

  def jitted(self, mesh: jax.sharding.Mesh) -> Callable:
    """The step; its state stays in its place and is written over."""
    return jax.jit(
      self.step,
      donate_argnums=0,
      out_shardings=(state_lib.shardings(self.model, self.tx, mesh), None),
    )

  def arguments(
    self, mesh: jax.sharding.Mesh, batch: Mapping[str, Any]
  ) -> tuple[Any, Any, Any]:
    """The shapes of state, batch and key in their places; allocates nothing.

    Args:
      mesh: to lie on.
      batch: shape and dtype of each array, rows first.
    """
    places = state_lib.shardings(self.model, self.tx, mesh)
    shapes = state_lib.abstract(self.model, self.tx)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
      jax.tree.map(_placed, shapes, places),
      {
        k: _placed(v, sharding.sharding(mesh, "batch"))
        for k, v in batch.items()
      },
      _placed(key, sharding.sharding(mesh)),
    )


def _placed(shape, place) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
