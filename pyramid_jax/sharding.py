"""The mesh and the one table from logical axes to mesh axes.

A parameter names the meaning of its dimensions ("embed", "mlp", "heads", ...);
`RULES` says which mesh axis splits each. To run on another mesh, change the
mesh shape in the config and nothing else.
"""

import logging
import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pyramid_jax.config import ConfigError, MeshConfig

log = logging.getLogger(__name__)

MANY = 2**20  # parameters that should not lie whole on every device
MESH_AXES = ("data", "fsdp", "tensor", "sequence")

RULES: dict[str, str | tuple[str, ...] | None] = {
  # activations
  "batch": ("data", "fsdp"),  # rows of tokens, clips of video
  "tokens": "sequence",
  "space": "sequence",  # height of a clip of pixels or latents
  "segments": None,
  # parameters
  "layers": None,
  "embed": "fsdp",
  "mlp": "tensor",
  "heads": "tensor",
  "head": None,
  "vocabulary": "tensor",
  "modulation": None,
  "kernel": None,  # taps of a convolution
  "channels_in": "fsdp",
  "channels": "tensor",
}


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
  """Arranges the devices as (data, fsdp, tensor, sequence).

  Raises:
    ConfigError: see `mesh_shape`; the axes do not multiply to the number of
      devices, or data cannot be split over the slices.
  """
  devices = jax.devices() if devices is None else list(devices)
  axes = mesh_shape(config, len(devices))
  shape = tuple(axes.values())
  if int(np.prod(shape)) != len(devices):
    raise ConfigError(
      f"config.mesh {axes} needs {int(np.prod(shape))} devices; there are "
      f"{len(devices)}. Change one axis, or set one of them to -1 to take what "
      "the others leave."
    )
  grid = arrange(devices, shape)
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def mesh_shape(config: MeshConfig, devices: int) -> dict[str, int]:
  """The axes on so many devices; one that is -1 has what the others leave.

  They need not multiply to the number of devices; `make_mesh` asks for that.

  Raises:
    ConfigError: an axis of less than one device, or several that are -1.
  """
  shape = {axis: getattr(config, axis) for axis in MESH_AXES}
  for axis, n in shape.items():
    if n < 1 and n != -1:
      raise ConfigError(
        f"config.mesh.{axis} {n} is no number of devices: it is at least 1, or "
        "-1 in one axis to take what the others leave."
      )
  free = [axis for axis, n in shape.items() if n == -1]
  if len(free) > 1:
    raise ConfigError(
      f"config.mesh.{' and config.mesh.'.join(free)} are -1; only one of the "
      "axes can take what the others leave: set the others to 1 or more."
    )
  if free:
    rest = int(np.prod([n for n in shape.values() if n != -1]))
    shape[free[0]] = max(devices // max(rest, 1), 1)
  return shape


def make_local_mesh(config: MeshConfig) -> Mesh:
  """A mesh of this process's devices alone, for work that needs no others.

  It has the config's shape if that is for so many devices; if it is for those
  of all processes together, the local ones share the batch.

  Raises:
    ConfigError: the config is for neither.
  """
  local = jax.local_devices()
  if jax.process_count() == 1:
    return make_mesh(config, local)
  try:
    return make_mesh(config, local)
  except ConfigError:
    make_mesh(config)  # refuses what fits no machine
    return make_mesh(MeshConfig(data=-1, fsdp=1), local)


def arrange(devices: Any, shape: tuple[int, ...]) -> np.ndarray:
  """The devices in the shape of a mesh.

  Neighbours along the last axes are near each other: tensor and sequence stay
  inside a node of GPUs, and only data goes from one slice of TPUs to another.

  Raises:
    ConfigError: data cannot be split over the slices.
  """
  slice_of = lambda device: getattr(device, "slice_index", 0)
  slices = len({slice_of(d) for d in devices})
  if slices > 1 and devices[0].platform != "tpu":
    # XLA calls each node of GPUs a slice; any axis may go over their network
    near = sorted(devices, key=lambda d: (slice_of(d), d.id))
    return np.array(near).reshape(shape)
  # a mesh axis may take a part of a dimension of a TPU's torus
  if slices == 1:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  if shape[0] % slices:
    raise ConfigError(
      f"config.mesh.data {shape[0]} is not a multiple of the {slices} slices; "
      "only data goes over the network between them. Set it to "
      f"{-(-shape[0] // slices) * slices}."
    )
  inside = (shape[0] // slices, *shape[1:])
  return mesh_utils.create_hybrid_device_mesh(
    inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True
  )


def spec(names: tuple[str | None, ...]) -> PartitionSpec:
  """The mesh axes of an array whose dimensions have these logical names."""
  return PartitionSpec(*(RULES[n] if n else None for n in names))


def sharding(mesh: Mesh, *names: str | None) -> NamedSharding:
  """`spec` on a mesh."""
  return NamedSharding(mesh, spec(names))


def dividing_spec(
  mesh: Any, shape: tuple[int, ...], names: tuple[str | None, ...]
) -> PartitionSpec:
  """`spec`; a dimension that its mesh axes do not divide stays whole.

  So a tiny model runs on the mesh of a large one. (The compiler could split
  such a dimension unevenly, but with several axes its gradients were wrong.)
  """
  chosen = []
  for size, part in zip(shape, spec(names), strict=True):
    axes = (part,) if isinstance(part, str) else part or ()
    split = int(np.prod([mesh.shape[a] for a in axes]))
    chosen.append(part if size % split == 0 else None)
  return PartitionSpec(*chosen)


def tree_shardings(mesh: Mesh, shapes: Any, axes: Any) -> Any:
  """Shardings for a tree of arrays from a like tree of logical axis names."""
  return jax.tree.map(
    lambda x, names: NamedSharding(mesh, dividing_spec(mesh, x.shape, names)),
    shapes,
    axes,
  )


def tell_whole(mesh: Any, shapes: Any, axes: Any) -> None:
  """Warns of many parameters that a mesh axis was to split and does not.

  Every device along it then holds the same of them, and of what the optimizer
  keeps of them.
  """
  whole: dict[tuple[str, int, int], int] = {}

  def count(x, names: tuple[str | None, ...]):
    for name, size in zip(names, x.shape, strict=True):
      split = parts(name, mesh) if name else 1
      if size % split:
        key = (name, size, split)
        whole[key] = whole.get(key, 0) + int(np.prod(x.shape))

  jax.tree.map(count, shapes, axes)
  for (name, size, split), held in whole.items():
    if held >= MANY:
      best = math.gcd(size, split)
      log.warning(
        "%.1f M parameters are not split by config.mesh.%s %d, of which %s %d "
        "is not a multiple%s.",
        held / 1e6, RULES[name], split, name, size,
        f"; {best} would split them" if best > 1 else "",
      )  # fmt: skip


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Tells the compiler how an activation lies on the current mesh, if any."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(
    x, dividing_spec(mesh, x.shape, names)
  )


def parts(name: str, mesh: Any = None) -> int:
  """Into how many parts a mesh, or the current one, splits a logical axis."""
  mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  axes = RULES[name] or ()
  axes = (axes,) if isinstance(axes, str) else axes
  return 1 if mesh.empty else int(np.prod([mesh.shape[a] for a in axes]))


def beside_split_pictures(weights: Any) -> Any:
  """Weights of convolutions, whole on each device where pictures are split.

  Of a convolution whose kernel is split as well as the height of what it sees
  XLA makes programs that give other numbers.
  """
  if parts("space") == 1:
    return weights
  return jax.tree.map(lambda x: constrain(x, *[None] * x.ndim), weights)


def local_rows(mesh: Mesh, rows: int) -> list[int]:
  """The rows of a batch that this process's devices hold, in order.

  A row that devices of several processes hold is in the list of each.

  Raises:
    ConfigError: the batch axes do not divide the number of rows.
  """
  split = int(np.prod([mesh.shape[a] for a in RULES["batch"]]))
  if rows % split:
    raise ConfigError(
      f"{rows} rows cannot be split over data x fsdp = {split} devices; make "
      f"them a multiple, for example {-(-rows // split) * split}, or lower "
      "data or fsdp of the mesh."
    )
  held = sharding(mesh, "batch").addressable_devices_indices_map((rows,))
  return sorted({r for (s,) in held.values() for r in range(rows)[s]})


def place_batch(mesh: Mesh, batch: Any, rows: int) -> Any:
  """Makes global arrays, split over the batch axes, of a host's rows.

  Args:
    mesh: to place on.
    batch: tree of arrays with the rows `local_rows(mesh, rows)`.
    rows: of the whole batch, over all processes.
  """
  place = {row: i for i, row in enumerate(local_rows(mesh, rows))}
  where = sharding(mesh, "batch")

  def one(x):
    def part(index):
      wanted = [place[r] for r in range(rows)[index[0]]]
      return x[wanted[0] : wanted[-1] + 1]  # neighbours stay neighbours

    return jax.make_array_from_callback((rows, *x.shape[1:]), where, part)

  return jax.tree.map(one, batch)
