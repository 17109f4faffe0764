"""The weights of one component: of the released layout, or ours in one file.

Ours are `weights.safetensors`, named by our parameters, layers stacked; see
`checkpoint.load_trained`. Both directions move a tensor at a time.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax import sharding, tensors
from pyramid_jax.convert import names, snapshot
from pyramid_jax.convert.models import Model
from pyramid_jax.models.pure import Params

Path = str | os.PathLike


def load_params(
  model: Model,
  config: Any,
  folder: Path,
  mesh: jax.sharding.Mesh | None = None,
  dtype: str | None = None,
) -> Params:
  """A component's parameters, on a mesh or on the default device.

  `dtype` None keeps the stored ones.

  Raises:
    SnapshotError, TensorFileError: files are missing or broken.
    NameTableError: tensors that are missing, unknown or misshaped.
  """
  folder, pure = pathlib.Path(folder), model.make(config)
  if mesh is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = jax.tree.map(lambda _: one, pure.shapes)
  else:
    places = sharding.tree_shardings(mesh, pure.shapes, pure.axes)
  with names.named(folder):
    if (folder / tensors.WEIGHTS).is_file():
      stored = tensors.open_file(folder / tensors.WEIGHTS)
      wanted = tensors.flat(pure.shapes)
      table = [names.Name(path, path) for path in wanted]
      # a CLIP may be used without its projection
      stored = {path: x for path, x in stored.items() if path in wanted}
    else:
      table = model.names(config)
      stored = model.tensors(config, snapshot.open_tensors(folder))
    names.check(table, stored, pure.shapes)
    shapes = names.stored_dtypes(table, stored, pure.shapes)
    if dtype is not None:
      shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)), shapes
      )
    return names.to_mesh(table, stored, shapes, places)


def write_weights(
  model: Model, config: Any, stored: Mapping[str, Any], path: Path
):
  """Writes torch tensors as our weights file, in the dtypes they have.

  Layers of different dtypes are stored in the wider one, which keeps values.

  Raises:
    NameTableError: tensors that are missing, unknown or misshaped.
  """
  table, shapes = model.names(config), model.make(config).shapes
  names.check(table, stored, shapes)
  shapes = names.stored_dtypes(table, stored, shapes)
  flat = tensors.flat(shapes)
  with tensors.create_file(path, flat) as writer:
    for name in table:
      dtype = flat[name.ours].dtype
      for row, torch in enumerate(name.layers):
        value = name.layer(torch, stored).astype(dtype, copy=False)
        writer.write(name.ours, value, row)


def torch_tensors(model: Model, config: Any, params: Params) -> dict[str, Any]:
  """The torch state dict of our parameters, each tensor made when asked for."""
  return {
    **model.buffers(config),
    **names.torch_tensors(model.names(config), params),
  }
