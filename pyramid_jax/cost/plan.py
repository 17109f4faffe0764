"""A run on a machine: compiled, measured in tokens, estimated in hours."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError, MeshConfig
from pyramid_jax.cost import estimate, jobs
from pyramid_jax.cost.chips import Target
from pyramid_jax.cost.compile import Compiled, compile_job, devices
from pyramid_jax.cost.workload import Workload, measure, unit_pairs
from pyramid_jax.data.sizes import schedule_of
from pyramid_jax.generate.sizes import sampling_plan


class Plan(NamedTuple):
  """What is known of a program on a machine.

  Attributes:
    config: of the run.
    target: the machine.
    mesh: its axes, all slices together.
    compiled: the compiler's answer.
    workload: of a transformer's training, else None.
    estimate: seconds, None without a chip or where it does not fit.
    run: what a transformer's training comes to, else None.
    work: executed by a device.
    sampler: whether it is one of the sampler's programs.
  """

  config: Config
  target: Target
  mesh: dict[str, int]
  compiled: Compiled
  workload: Workload | None
  estimate: estimate.Estimate | None
  run: estimate.Run | None
  work: estimate.flops.Flops
  sampler: bool = False


def make(
  config: Config,
  target: Target,
  *,
  generate: bool = False,
  limit: float | None = None,
  quick: bool = False,
  on: Sequence | None = None,
) -> Iterator[Plan]:
  """Compiles a run's programs for a machine and estimates them, one by one.

  Several slices are compiled as one of them, which the data axis divides;
  what they exchange over the slow network is added by formula.

  Args:
    config: of the run.
    target: the machine.
    generate: the sampler's programs in place of the training step.
    limit: bytes of HBM; by default what the target's devices have.
    quick: see `compile_job`.
    on: as many devices of the target, if others are to be compiled for than
      `compile.devices` names.

  Raises:
    ConfigError: see `compile.devices`, `jobs` and `sharding.make_mesh`.
  """
  if limit is None:
    limit = target.memory
  local = one_slice(config, target.slices)
  mesh = sharding.make_mesh(local.mesh, on or devices(target))
  whole = dict(mesh.shape)
  whole["data"] *= target.slices
  workload = None
  if config.kind == "dit" and not generate:
    tile = target.chip.tile if target.chip else (512, 1024)
    workload = measure(config, tile)
  make_jobs = jobs.sampler if generate else jobs.training
  for job in make_jobs(local, mesh):
    compiled = compile_job(job, mesh, target, limit, quick=quick)
    if generate:
      pairs = _sampled_pairs(config, job, target) if target.chip else 0.0
      yield _plan(config, target, whole, None, compiled, pairs, sampler=True)
    else:
      yield of_training(config, target, compiled, workload)


def of_training(
  config: Config,
  target: Target,
  compiled: Compiled,
  workload: Workload | None = None,
) -> Plan:
  """What a compiled training step comes to.

  `workload`: of a transformer.
  """
  mesh, pairs = estimate.mesh_of(config, target), 0.0
  if workload is not None:
    pairs = config.latents.rows * workload.visited / target.total
  return _plan(config, target, mesh, workload, compiled, pairs)


def suited(config: Config, target: Target) -> Config:
  """The config, with as many devices to a row as its rows are too few for.

  Where its mesh leaves an axis to the number of devices and so has more of
  them than rows, heads and MLP are split (axis tensor) until rows divide;
  a config that cannot be mended so is given back as it is, to be refused.
  """
  mesh, rows = estimate.mesh_of(config, target), config.latents.rows
  batch = mesh["data"] * mesh["fsdp"]
  free = -1 in (config.mesh.data, config.mesh.fsdp)
  free = free and math.prod(mesh.values()) == target.total
  if config.kind != "dit" or not free or rows % batch == 0:
    return config
  for share in range(2, batch + 1):
    tensor = share * mesh["tensor"]
    divides = batch % share == 0 and config.model.heads % tensor == 0
    if divides and rows % (batch // share) == 0:
      changed = dataclasses.replace(config.mesh, tensor=tensor)
      return dataclasses.replace(config, mesh=changed)
  return config


def one_slice(config: Config, slices: int) -> Config:
  """What one of several slices does.

  Raises:
    ConfigError: a data axis or rows that the slices do not divide.
  """
  data, rows = config.mesh.data, config.latents.rows
  phases = config.videos.phases
  if data != -1 and data % slices:
    raise ConfigError(
      f"config.mesh.data {data} is not a multiple of --slices={slices}: only "
      "the data axis crosses slices."
    )
  batches = {"latents.rows": [rows]}
  if config.kind == "vae":
    batches = {
      f"videos.phases[].{name}": [getattr(p, name) for p in phases]
      for name in ("batch", "images")
    }
  for name, sizes in batches.items():
    for size in sizes:
      if size % slices:
        raise ConfigError(
          f"config.{name} {size} is not a multiple of --slices={slices}; "
          f"nearest: {-(-size // slices) * slices}."
        )
  axis = data if data == -1 else data // slices
  mesh = dataclasses.replace(config.mesh, data=axis)
  config = dataclasses.replace(config, mesh=mesh)
  if config.kind == "dit":
    return jobs.with_rows(config, rows // slices)
  phases = tuple(
    dataclasses.replace(p, batch=p.batch // slices, images=p.images // slices)
    for p in phases
  )
  videos = dataclasses.replace(config.videos, phases=phases)
  return dataclasses.replace(config, videos=videos)


def _plan(
  config: Config,
  target: Target,
  mesh: dict[str, int],
  workload: Workload | None,
  compiled: Compiled,
  pairs: float,
  *,
  sampler: bool = False,
) -> Plan:
  visited = pairs * estimate.repeated(config, mesh)
  work = estimate.executed(compiled, config, visited, train=not sampler)
  guess = run = None
  if target.chip and compiled.fits:
    fast, slow = estimate.split(compiled.collectives, target)
    if target.slices > 1 and not sampler:
      gradients = compiled.parts["parameters"]
      slow += estimate.between_slices(gradients, target.slices)
    guess = estimate.roofline(target.chip, work, compiled.traffic, fast, slow)
    if workload is not None:
      run = estimate.run(guess, work, config, workload, target)
  return Plan(
    config, target, mesh, compiled, workload, guess, run, work, sampler
  )


def _sampled_pairs(config: Config, job: jobs.Job, target: Target) -> float:
  """Pairs that a device visits in a unit of the sampler."""
  plan = sampling_plan(config, config.generate, config.vae)
  rows, text = job.parts["text"]["text_segment"].shape
  stages = schedule_of(config.flow).stages
  pairs = unit_pairs(plan, stages, job.unit, text, target.chip.tile)
  return rows * pairs / target.devices


def sweep(
  first: Plan, *, limit: float | None = None, quick: bool = False
) -> Iterator[tuple[str, Plan | Exception]]:
  """(what is changed, the plan or why there is none), one change at a time.

  Rows a step, microbatches, remat, and the mesh: all on fsdp, data 2, tensor 2
  and 4, sequence 2, data over eighths.

  Args:
    first: a transformer's training as it is.
    limit: see `make`.
    quick: see `make`.

  Raises:
    ConfigError: it is a VAE's.
  """
  if first.config.kind == "vae":
    raise ConfigError(
      "--sweep changes what a transformer has; this config is a VAE's."
    )
  yield "as it is", first
  for name, changed in _changes(first.config):
    try:
      (found,) = make(changed, first.target, limit=limit, quick=quick)
    except (ConfigError, jax.errors.JaxRuntimeError) as error:
      found = error  # the other changes may do
    yield name, found


def _changes(config: Config) -> Iterator[tuple[str, Config]]:
  for rows in (config.latents.rows // 2, config.latents.rows * 2):
    if rows:
      yield f"rows {rows}", jobs.with_rows(config, rows)
  for parts in (2, 4):
    if parts != config.train.microbatches and not config.latents.rows % parts:
      train = dataclasses.replace(config.train, microbatches=parts)
      yield f"microbatches {parts}", dataclasses.replace(config, train=train)
  for remat in ("none", "matmuls", "attention", "layer"):
    if remat != config.model.remat:
      model = dataclasses.replace(config.model, remat=remat)
      yield f"remat {remat}", dataclasses.replace(config, model=model)
  for mesh in (
    MeshConfig(),
    MeshConfig(data=2),
    MeshConfig(tensor=2),
    MeshConfig(tensor=4),
    MeshConfig(sequence=2),
    MeshConfig(data=-1, fsdp=8),
  ):
    if mesh != config.mesh:
      axes = dataclasses.asdict(mesh).items()
      name = ", ".join(f"{k} {v}" for k, v in axes if v != 1)
      name = f"mesh {name}".replace("-1", "the rest")
      yield name, dataclasses.replace(config, mesh=mesh)


def formula(
  config: Config, target: Target, workload: Workload | None = None
) -> estimate.Run:
  """A transformer's run where nothing can be compiled; see `by_formula`.

  `workload`: of the config, where it is known already.
  """
  workload = workload or measure(config, target.chip.tile)
  guess, work = estimate.by_formula(config, workload, target)
  return estimate.run(guess, work, config, workload, target)
