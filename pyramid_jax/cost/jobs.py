"""The programs that can be planned, as shapes in their places on a mesh.

Each is the very function that a run compiles: the training step of
`train/program.py`, the unit program of `flow/sampler.py`.

Legend: B samples, R rows (2B with guidance), M text tokens, T frames.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jax.tree_util import Partial

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError, LPIPSConfig
from pyramid_jax.data.rows import Segment, pack_row
from pyramid_jax.data.sizes import schedule_of
from pyramid_jax.flow import plan as plan_lib
from pyramid_jax.flow.sampler import STATIC, compiled_unit
from pyramid_jax.generate.sizes import sampling_plan
from pyramid_jax.models.dit import make_dit
from pyramid_jax.train import dit, vae
from pyramid_jax.train.accumulate import check_parts
from pyramid_jax.train.program import Program


class Job(NamedTuple):
  """A program to compile.

  Attributes:
    name: for people.
    function: jitted.
    args: shapes with their places.
    static: keyword arguments, most of them static.
    parts: name -> tree of arguments, what the memory is split into.
    times: how often it runs for one clip (sampler), else 1.
    unit: that the integers are of (sampler).
  """

  name: str
  function: Callable
  args: tuple
  static: dict[str, Any]
  parts: dict[str, Any]
  times: int = 1
  unit: int = 0


def training(config: Config, mesh: Mesh) -> list[Job]:
  """The step of a transformer's run, or of each shape of a VAE's batches.

  Raises:
    ConfigError: settings that make no run, or rows that the mesh cannot split.
  """
  check_batches(config, mesh)
  if config.kind == "dit":
    parts = sharding.parts("tokens", mesh)
    dit.check_row(config, mesh.devices.flat[0].platform, parts)
    program = dit.make_program(config)
    return [_step("training step", program, mesh, row_batch(config))]
  program = vae.make_program(config, LPIPSConfig())  # of VGG16, as released
  return [
    _step(
      f"training step on {p.batch} clips of {p.frames} x {p.height} x "
      f"{p.width}",
      program,
      mesh,
      clip_batch(p),
    )
    for phase in config.videos.phases
    for p in phase.shapes
  ]


def of_vae(config: Config) -> Config:
  """The training of a transformer's VAE, if the config is not a VAE's."""
  if config.kind == "vae":
    return config
  steps = sum(phase.steps for phase in config.videos.phases)
  train = dataclasses.replace(config.train, steps=steps)
  warmup = min(config.optimizer.warmup, steps - 1)
  optimizer = dataclasses.replace(config.optimizer, warmup=warmup)
  return dataclasses.replace(
    config, kind="vae", train=train, optimizer=optimizer
  )


def check_batches(config: Config, mesh: Mesh | AbstractMesh):
  """Refuses rows, or batches and heights of clips, that a mesh cannot split.

  Raises:
    ConfigError: names the setting and says what it may be.
  """
  if config.kind == "dit":
    rows, parts = config.latents.rows, config.train.microbatches
    check_parts(mesh, "config.latents.rows", rows, parts)
  else:
    vae.check_heights(config, mesh)
    vae.check_batches(config, mesh)


def _step(name: str, program: Program, mesh: Mesh, batch) -> Job:
  sharding.tell_whole(mesh, program.model.shapes, program.model.axes)
  args, frozen = program.arguments(mesh, batch)
  state = args[0]
  parts = {
    "parameters": state.params,
    "optimizer": state.opt,
    "EMA": state.ema,
    "batch": args[1],
  }
  if state.adversary:
    parts["discriminator"] = state.adversary
  if frozen:
    parts["LPIPS"] = frozen
  return Job(name, program.jitted(mesh), args, frozen, parts)


def row_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a step's packed rows, from a row with a one-token clip."""
  data, model = config.latents, config.model
  D = model.latent_channels * model.patch**2
  zeros = lambda *shape: np.zeros(shape, np.float32)
  text = np.zeros((1, model.text_dim), jnp.dtype(config.text.dtype))
  whole = np.zeros(1, np.int32)
  clip = Segment(
    zeros(1, D), zeros(1, D), whole, zeros(1, 2), np.ones(1, bool), zeros(1), 0,
    text, zeros(model.pooled_dim),
  )  # fmt: skip
  row = pack_row([clip], data.latent_tokens, data.text_tokens, data.segments, 0)
  return {
    name: jax.ShapeDtypeStruct((data.rows, *np.shape(x)), np.asarray(x).dtype)
    for name, x in row.items()
  }


def clip_batch(phase) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a step's clips of pixels."""
  shape = (phase.batch, phase.frames, phase.height, phase.width, 3)
  return {
    "video": jax.ShapeDtypeStruct(shape, jnp.float32),
    "index": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
  }


def sampler(config: Config, mesh: Mesh) -> list[Job]:
  """The program of each bucket of units, a sample for every part of a batch.

  Raises:
    ConfigError: a size or length that cannot be generated, or a VAE's config.
  """
  if config.kind != "dit":
    raise ConfigError("--generate plans a transformer; give its config.")
  plan = sampling_plan(config, config.generate, config.vae)
  samples = int(np.prod([mesh.shape[a] for a in sharding.RULES["batch"]]))
  jobs, unit = [], 0
  while unit < plan.units:
    first, last = plan_lib.bucket(unit, plan.units)
    jobs.append(_unit(config, mesh, plan, last, samples, last - first + 1))
    unit = last + 1
  return jobs


def _unit(config, mesh, plan, unit: int, samples: int, times: int) -> Job:
  """A bucket's program, with the integers of its last unit."""
  schedule, model = schedule_of(config.flow), make_dit(config.model)
  places = sharding.tree_shardings(mesh, model.used, model.axes)
  params = jax.tree.map(
    lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
    model.used,
    places,
  )
  R = samples * (2 if plan.guided else 1)
  M, f32 = config.text.max_tokens, jnp.float32
  by_row = sharding.sharding(mesh, "batch")
  whole = sharding.sharding(mesh)

  def like(x, place=whole):
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place)

  shape = lambda *s, dtype=f32: like(jax.ShapeDtypeStruct(s, dtype), by_row)
  text = {
    "text": shape(R, M, config.model.text_dim),
    "text_segment": shape(R, M, dtype=jnp.int32),
    "pooled": shape(R, 1, config.model.pooled_dim),
  }
  rows = plan_lib.unit_rows(plan, schedule.stages, unit, np.ones((R, M), int))
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), samples))
  noise = jax.eval_shape(
    lambda keys: plan_lib.draw_noise(keys, unit, plan, schedule), keys
  )
  latents = shape(samples, plan.frames, plan.height, plan.width, plan.channels)
  args = (
    Partial(model.apply, params),
    latents,
    jax.tree.map(like, rows),
    text,
    jax.tree.map(lambda x: like(x, by_row), noise),
    like(np.float32(0)),
  )
  values = (schedule, plan.later_steps if unit else plan.steps, plan.patch,
            plan.upsample)  # fmt: skip
  return Job(
    f"units up to {unit} of {samples} clips",
    compiled_unit,
    args,
    dict(zip(STATIC, values, strict=True)),
    {"parameters": params, "latents": latents, "text": text},
    times,
    unit,
  )


def with_rows(config: Config, rows: int) -> Config:
  """The config with other rows a step."""
  latents = dataclasses.replace(config.latents, rows=rows)
  return dataclasses.replace(config, latents=latents)
