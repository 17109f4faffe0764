"""A batch in parts, one after the other: less memory, the same step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from pyramid_jax.config import ConfigError
from pyramid_jax.sharding import RULES, constrain

Batch = Mapping[str, jax.Array]


def check_parts(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
  name: str,
  rows: int,
  parts: int,
  within: str = "a row over config.mesh.tensor or config.mesh.sequence",
):
  """Refuses rows of which a part cannot be split over the mesh.

  Every device would compute such a part whole.

  Args:
    mesh: that splits them.
    name: the setting that the rows are, as config.latents.rows.
    rows: of a step, over all devices.
    parts: microbatches.
    within: what else the devices can split, and by which settings.

  Raises:
    ConfigError: says what rows, microbatches or mesh may be.
  """
  split = math.prod(mesh.shape[axis] for axis in RULES["batch"])
  least = parts * split
  if rows % least == 0:
    return
  over = f"data x fsdp {split}"
  if parts > 1:
    over = f"config.train.microbatches {parts} x {over} = {least}"
  remedies = [f"make it one, for example {-(-rows // least) * least}"]
  if parts > 1:
    remedies.append("lower the microbatches")
  if split > 1:
    remedies.append(f"split {within}, which leaves fewer devices to fsdp")
  raise ConfigError(
    f"{name} {rows} is not a multiple of {over}: {', or '.join(remedies)}."
  )


def accumulate(f: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
  """The sum of f(part) over `parts` equal parts of a batch.

  Row b of the batch goes to part b mod `parts`, so that every device keeps its
  own rows; the number of rows is a multiple of `parts`.
  """
  if parts == 1:
    return f(batch)
  split = {
    k: rearrange(v, "(b n) ... -> n b ...", n=parts) for k, v in batch.items()
  }

  def one(total, part):
    part = {
      k: constrain(v, "batch", *[None] * (v.ndim - 1)) for k, v in part.items()
    }
    return jax.tree.map(jnp.add, total, f(part)), None

  shapes = jax.eval_shape(f, {k: v[0] for k, v in split.items()})
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(one, zeros, split)[0]
