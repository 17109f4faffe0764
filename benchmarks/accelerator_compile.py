"""The cases of accelerator.py, compiled for a device that need not be there.

`python benchmarks/accelerator.py --compile=h100:1` runs this.
"""

import dataclasses

import accelerator_cases as cases
import jax
import jax.numpy as jnp

from pyramid_jax import config as c
from pyramid_jax import sharding
from pyramid_jax.cli.compilers import prepare
from pyramid_jax.cost import chips, estimate, plan
from pyramid_jax.cost.compile import compile_job, devices
from pyramid_jax.cost.jobs import Job
from pyramid_jax.generate.sizes import sampling_plan


class Ahead:
  """One device of a topology, to compile for."""

  def __init__(self, topology: str):
    target = chips.target(topology)
    prepare(target)
    self.devices = devices(target)[:1]
    self.target = dataclasses.replace(target, devices=1)
    self.mesh = sharding.make_mesh(c.MeshConfig(), self.devices)

  def placed(self, tree, dtype=None):
    """The shapes of a tree on the device; in one dtype, if it is given."""
    place = sharding.sharding(self.mesh)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=place),
      tree,
    )

  def program(self, name: str, function, *args, kernels: float | None = None):
    """What the compiler says of a jitted function, its roofline if known.

    `kernels`: FLOPs in custom kernels, if it has any.
    """
    job = Job(name, function, args, {}, {"arguments": args})
    target = self.target
    found = compile_job(job, self.mesh, target, target.memory)
    guess = None
    if target.chip and kernels is not None and found.fits:
      work = estimate.flops.Flops(found.flops, kernels * found.kernels)
      guess = estimate.roofline(target.chip, work, found.traffic, 0.0)
    return self.line(found, guess)

  def plans(self, config, **options) -> list[dict]:
    """What the planner says of a config's programs."""
    made = plan.make(config, self.target, on=self.devices, **options)
    return [self.line(found.compiled, found.estimate) for found in made]

  def line(self, compiled, guess) -> dict:
    """A program in the results."""
    return {
      "program": compiled.name,
      "times": compiled.times,
      "compile_seconds": round(compiled.seconds, 1),
      **cases.said(compiled, guess),
    }


def attention(case: dict, tiny: bool, ahead: Ahead) -> list[dict]:
  """Forward and backward of one row."""
  config = cases.config_of(case, tiny)
  start, end = cases.key_bounds(config)
  shape = (*start.shape, config.model.heads, config.model.head_dim)
  x = ahead.placed(jax.ShapeDtypeStruct(shape, case["dtype"]))
  programs = cases.attention_programs(case, start, end)
  forward, with_pullback, backward = programs
  kernels = {}
  if case["dtype"] == "bfloat16" and ahead.target.chip:  # whose peak is known
    tile = ahead.target.chip.tile
    kernels = cases.kernel_flops(config, start, end, tile)
  with jax.set_mesh(ahead.mesh):
    _, pull = jax.eval_shape(with_pullback, x, x, x)
  return [
    ahead.program("forward", forward, x, x, x, kernels=kernels.get("forward")),
    ahead.program(
      "backward",
      backward,
      ahead.placed(pull),
      x,
      kernels=kernels.get("backward"),
    ),
  ]


def train(case: dict, tiny: bool, ahead: Ahead) -> list[dict]:
  """The training step."""
  return ahead.plans(cases.config_of(case, tiny))


def generate(case: dict, tiny: bool, ahead: Ahead) -> list[dict]:
  """T5, the transformer's units, the VAE's first and later ones."""
  config = cases.clip_config(case, tiny)
  t5 = cases.text_encoder(tiny)
  shape = 2, config.text.max_tokens
  ids, mask = (jax.ShapeDtypeStruct(shape, t) for t in (jnp.int32, bool))
  text = ahead.program(
    "text", jax.jit(t5.apply), ahead.placed(t5.shapes, "bfloat16"),
    *ahead.placed((ids, mask)),
  )  # fmt: skip
  wanted = sampling_plan(config, config.generate, config.vae)
  vae, chunk = cases.decoder(config)
  params = ahead.placed(vae.shapes, "bfloat16")
  shape = (1, 1, wanted.height, wanted.width, wanted.channels)
  z = ahead.placed(jax.ShapeDtypeStruct(shape, jnp.float32))
  with jax.set_mesh(ahead.mesh):
    cache = ahead.placed(jax.eval_shape(chunk, params, z, None)[1])
  return [
    text,
    *ahead.plans(config, generate=True),
    ahead.program("decode the first frame", chunk, params, z, None),
    ahead.program("decode a unit", chunk, params, z, cache),
  ]


def run(case: dict, tiny: bool, topology: str) -> dict:
  """The programs of one case."""
  found = globals()[case["part"]](case, tiny, Ahead(topology))
  return {
    "compiled_for": topology,
    "versions": cases.versions(),
    **case,
    **({"tiny": True} if tiny else {}),
    "programs": found,
  }
