"""Other settings of a run: those that suit a machine, and those to compare."""

import dataclasses
import math
from collections.abc import Iterator

import jax

from pyramid_jax.config import Config, ConfigError, MeshConfig
from pyramid_jax.cost import estimate, jobs
from pyramid_jax.cost import plan as plan_lib
from pyramid_jax.cost.chips import Target
from pyramid_jax.cost.plan import Plan


def is_possible(config: Config, target: Target) -> bool:
  """Whether a machine's devices divide what a config has them split."""
  axes = estimate.mesh_of(config, target)
  heads = config.model.heads if config.kind == "dit" else axes["tensor"]
  if math.prod(axes.values()) != target.total or heads % axes["tensor"]:
    return False
  try:
    plan_lib.one_slice(config, target.slices)
    plan_lib.check(config, target)
  except ConfigError:
    return False
  return True


def suited(config: Config, target: Target) -> Config:
  """The config, with as many devices to a row as its rows are too few for.

  Where its mesh leaves an axis to the number of devices and rows do not divide
  by it, heads and MLP are split (axis tensor) until they do. Where there are
  more devices than rows, what of that the heads do not allow is done by a
  split of the tokens (axis sequence), of a VAE by one of its clips' height.
  A config that cannot be mended so is given back as it is, to be refused.
  """
  axes = estimate.mesh_of(config, target)
  batch, of_vae = axes["data"] * axes["fsdp"], config.kind == "vae"
  rows = [config.latents.rows]
  if of_vae:
    rows = [s.batch for phase in config.videos.phases for s in phase.shapes]
  free = -1 in (config.mesh.data, config.mesh.fsdp)
  free = free and math.prod(axes.values()) == target.total
  if not free or not any(n % batch for n in rows):
    return config
  for share in (n for n in range(2, batch + 1) if batch % n == 0):
    most = share if min(rows) < batch else 1  # parts of the tokens
    for tokens in (n for n in range(1, most + 1) if share % n == 0):
      mesh = dataclasses.replace(
        config.mesh,
        tensor=axes["tensor"] * (share // tokens),
        sequence=axes["sequence"] * tokens,
      )
      changed = dataclasses.replace(config, mesh=mesh)
      if (tokens == share or not of_vae) and is_possible(changed, target):
        return changed
  return config


def sweep(
  first: Plan, *, limit: float | None = None, quick: bool = False
) -> Iterator[tuple[str, Plan | Exception]]:
  """(what is changed, the plan or why there is none), one change at a time.

  Args:
    first: a transformer's training as it is.
    limit: see `plan.make`.
    quick: see `plan.make`.

  Raises:
    ConfigError: it is a VAE's.
  """
  if first.config.kind == "vae":
    raise ConfigError(
      "--sweep changes what a transformer has; this config is a VAE's."
    )
  yield "as it is", first
  for name, changed in changes(first.config, first.target):
    try:
      (found,) = plan_lib.make(changed, first.target, limit=limit, quick=quick)
    except (ConfigError, jax.errors.JaxRuntimeError) as error:
      found = error  # the other changes may do
    yield name, found


def changes(config: Config, target: Target) -> Iterator[tuple[str, Config]]:
  """What a sweep tries, with names: of these, what the devices divide.

  Rows a step, halved and doubled; microbatches; remat; and the mesh: tensor
  halved and doubled; sequence 2, 4 and 8, out of tensor as far as that goes;
  data doubled; all on fsdp; data over eighths.
  """
  known = [estimate.mesh_of(config, target)]
  tried = [*_other_rows(config), *_other_remats(config)]
  for name, changed in _other_meshes(config, known[0], target):
    axes = estimate.mesh_of(changed, target)
    if axes not in known:
      tried.append((name, changed))
      known.append(axes)
  yield from (x for x in tried if is_possible(x[1], target))


def _other_rows(config: Config) -> Iterator[tuple[str, Config]]:
  for rows in (config.latents.rows // 2, config.latents.rows * 2):
    if rows:
      yield f"rows {rows}", jobs.with_rows(config, rows)
  for parts in (1, 2, 4):
    if parts != config.train.microbatches:
      train = dataclasses.replace(config.train, microbatches=parts)
      yield f"microbatches {parts}", dataclasses.replace(config, train=train)


def _other_remats(config: Config) -> Iterator[tuple[str, Config]]:
  for remat in ("none", "matmuls", "attention", "layer"):
    if remat != config.model.remat:
      model = dataclasses.replace(config.model, remat=remat)
      yield f"remat {remat}", dataclasses.replace(config, model=model)


def _other_meshes(
  config: Config, axes: dict[str, int], target: Target
) -> Iterator[tuple[str, Config]]:
  """`axes`: those of the config's mesh on the target."""
  tensor, mesh = axes["tensor"], config.mesh
  if -1 not in dataclasses.astuple(mesh):
    mesh = dataclasses.replace(mesh, fsdp=-1)
  for changed in (
    dict(tensor=2 * tensor),
    dict(tensor=max(tensor // 2, 1)),
    *(dict(tensor=max(tensor // n, 1), sequence=n) for n in (2, 4, 8)),
    dict(data=2 * axes["data"], fsdp=-1),
    dict(data=target.slices, fsdp=-1),
    dict(data=-1, fsdp=8),
  ):
    other = dataclasses.replace(mesh, **changed)
    yield _name(other, config.mesh), dataclasses.replace(config, mesh=other)


def _name(mesh: MeshConfig, before: MeshConfig) -> str:
  """The axes that were set otherwise."""
  old = dataclasses.asdict(before)
  new = {k: n for k, n in dataclasses.asdict(mesh).items() if n != old[k]}
  text = ", ".join(f"{axis} {n}" for axis, n in new.items())
  return f"mesh {text}".replace("-1", "the rest")
