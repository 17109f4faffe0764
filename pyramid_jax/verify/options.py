"""How a reference is run."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from pyramid_jax import sharding
from pyramid_jax.models.pure import Params, Pure


@dataclasses.dataclass(frozen=True)
class Options:
  """What may differ from the reference's own run.

  Attributes:
    dtype: of the matmuls.
    mesh: None is one device.
    attention: implementation, see `config.DiTConfig.attention`.
    quick: compile fast and run slowly, for small models on a CPU.
  """

  dtype: str = "float32"
  mesh: jax.sharding.Mesh | None = None
  attention: str = "auto"
  quick: bool = False

  def jit(self, function: Callable, **options: Any) -> Callable:
    """`jax.jit`."""
    if self.quick:
      options["compiler_options"] = {"xla_backend_optimization_level": 0}
    return jax.jit(function, **options)

  def place(self, model: Pure, params: Params) -> Params:
    """Parameters where they belong."""
    if self.mesh is None:
      return jax.device_put(params)
    places = sharding.tree_shardings(self.mesh, model.shapes, model.axes)
    return jax.device_put(params, places)

  def on_mesh(self) -> Any:
    """The context in which programs run."""
    if self.mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self.mesh)

  @property
  def rows(self) -> int:
    """Rows of a batch that fill the mesh."""
    if self.mesh is None:
      return 1
    rows = 1
    for axis in sharding.RULES["batch"]:
      rows *= self.mesh.shape[axis]
    return rows
