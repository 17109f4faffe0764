"""A run on a machine: compiled, measured in tokens, estimated in hours."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jax.sharding import AbstractMesh

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError
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
  if not generate:
    check(config, target)
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


def check(config: Config, target: Target) -> None:
  """Refuses what a machine cannot split, by numbers of all slices together.

  Raises:
    ConfigError: see `jobs.check_batches`.
  """
  axes = estimate.mesh_of(config, target)
  jobs.check_batches(config, AbstractMesh(tuple(axes.values()), tuple(axes)))


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
      "the data axis crosses slices; set it to "
      f"{-(-max(data, 1) // slices) * slices}."
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


def formula(
  config: Config, target: Target, workload: Workload | None = None
) -> estimate.Run:
  """A transformer's run where nothing can be compiled; see `by_formula`.

  `workload`: of the config, where it is known already.
  """
  workload = workload or measure(config, target.chip.tile)
  guess, work = estimate.by_formula(config, workload, target)
  return estimate.run(guess, work, config, workload, target)
