"""The plan of a run is that of the run: its memory, its batch, its command."""

import dataclasses
import importlib.util
import pathlib
import runpy

import jax
import numpy as np
import pytest
from jax.experimental import topologies

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError, from_dict
from pyramid_jax.cost import chips, jobs, plan
from pyramid_jax.cost.compile import attempt, tree_bytes
from pyramid_jax.data import pipeline, shapes_store
from pyramid_jax.data.clips import TrainingClips
from pyramid_jax.data.packing import Planner
from pyramid_jax.data.rows import TokenSpec
from pyramid_jax.train import dit
from pyramid_jax.train import state as state_lib
from tests import tiny
from tests.commands import refused
from tests.data import random_store
from tests.train import small_run

TINY = f"config={tiny.__file__}"
VAE = f"{tiny.__file__}:vae"
STAGES = [f"stages={tiny.__file__}", "topology=cpu:8"]
ROOT = pathlib.Path(__file__).parents[2]
NINE = (
  r"config\.latents\.rows 9 is not a multiple of data x fsdp 8: make it one, "
  r"for example 16, or split a row over config\.mesh\.tensor or config\.mesh\.s"
)
PARTS = (
  r"rows 2 is not a multiple of .*microbatches 2 x data x fsdp 2 = 4: .*, or "
  r"lower the microbatches, or split a row over config\.mesh\.t"
)


def test_planned_bytes_are_those_that_a_device_holds():
  config = small_run.config("none")
  mesh = sharding.make_mesh(config.mesh)
  (job,) = jobs.training(config, mesh)
  program = dit.make_program(config)
  state = state_lib.create(program.model, program.tx, mesh, seed=0)
  device = jax.devices()[3]

  def held(tree):
    return sum(
      shard.data.nbytes
      for x in jax.tree.leaves(tree)
      for shard in x.addressable_shards
      if shard.device == device
    )

  for name, tree in (
    ("parameters", state.params), ("optimizer", state.opt), ("EMA", state.ema)
  ):  # fmt: skip
    assert tree_bytes(job.parts[name]) == held(tree)


def test_planned_rows_are_shaped_as_loaded_ones(tmp_path):
  store = random_store.write(tmp_path / "store", 32)
  config = small_run.config(store.path, text__dtype="float32")
  data = config.latents
  planner = Planner([store], data, config.flow, config.model.patch, 0)
  spec = TokenSpec.of(config.flow, config.model)
  loaded = next(pipeline.batches([store], planner, spec))
  planned = jobs.row_batch(config)
  assert planned.keys() == loaded.keys()
  for name, x in loaded.items():
    assert (planned[name].shape, planned[name].dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["topology=v9:2x2"], r"'v9' is not one of v4, v5e, "),
    (["topology=cpu:8", "config.mesh.data=3"], "needs 6 devices; there are 8"),
    (
      ["topology=cpu:8", "config.mesh.data=16"],
      "needs 16 devices; there are 8",
    ),
    (["topology=cpu:8", "config.mesh.data=0"], r"mesh\.data 0 is no number"),
    (["topology=cpu:8", "config.latents.rows=9"], NINE),
    (
      ["topology=cpu:2", "config.train.microbatches=2"]
      + ["config.latents.rows=2"],
      PARTS,
    ),
    (["topology=cpu:8", "slices=3"], r"data 1 .* --slices=3: .* set it to 3\."),
    (
      ["topology=cpu:8", "vae", "generate"],
      "--vae, --generate or --sweep, one",
    ),
    (["topology=cpu:8", "generate", "sweep"], "one of them; --sweep is of a"),
    (["topology=cpu:8", "sweep", "config.kind=vae"], "--sweep is of a"),
    ([f"stages={VAE}", "topology=v5e:2x2"], "vae: it trains a VAE; name conf"),
    (STAGES, "leave it out .* and --topology=cpu"),
    ([*STAGES, "topology=v5e:2x2", "vae"], "--stages .*: leave it out with"),
    ([*STAGES, "topology=v5e:2x2", "generate"], "--stages .*: leave it out wi"),
    ([*STAGES, "topology=v5e:2x2", "config.kind=vae"], "--stages .*: leave it"),
    (["topology=cpu:8", "slow_gbps=400"], "there is none for --topology=cpu:8"),
    ([], r"--topology \(A slice: .*\) is missing"),
  ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message):
  refused(message, "plan", TINY, *arguments)


def without_compilers():
  """Stands for an environment with neither libtpu nor the CUDA plugin."""
  find = importlib.util.find_spec

  def missing(**_):
    raise RuntimeError("Unknown backend cuda")

  importlib.util.find_spec = lambda n: None if n == "libtpu" else find(n)
  topologies.get_topology_desc = missing


@pytest.mark.parametrize(
  "topology, extra", [("v5e:2x2", "tpu"), ("h100:8", "cuda13")]
)
def test_a_compiler_that_is_missing_is_named(topology, extra):
  asked = f"topology={topology}"
  message = rf'pip install "jax\[{extra}\]=='
  refused(message, "plan", TINY, asked, before=without_compilers)


def compilers_that_fail():
  """Stands for a fault of XLA."""

  def fail(*_, **__):
    raise jax.errors.JaxRuntimeError("INTERNAL: no tile sizes\n\tmore")

  jax.stages.Lowered.compile = fail


def test_a_compiler_that_fails_is_told_in_one_line():
  message = (
    r"compiler for cpu:8 fails at the training step: INTERNAL: no tile sizes\. "
    r"Try it without --quick, or with other rows"
  )
  asked = ("topology=cpu:8", "quick")
  refused(message, "plan", TINY, *asked, before=compilers_that_fail)


def test_products_that_find_no_tiles_without_a_gpu_are_left_to_libraries():
  """XLA's own fault; on a GPU it tries tilings, and takes those that run."""
  tried = []

  class Lowered:
    def compile(self, compiler_options):
      tried.append(compiler_options)
      if compiler_options.get("xla_gpu_enable_triton_gemm", True):
        raise jax.errors.JaxRuntimeError("INTERNAL: no tile sizes\n\tmore")
      return "program"

  found = lambda topology: attempt(
    Lowered(), "training step", chips.target(topology), False
  )
  program, message, without = found("h100:8")
  assert (program, message) == ("program", "") and "products" in without
  assert tried[0] == {} and len(tried) == 2
  with pytest.raises(ConfigError, match="for v5e:2x2 fails at the training st"):
    found("v5e:2x2")


@pytest.mark.parametrize("stage", ["image", "384p", "768p"])
def test_both_transformers_learn_a_stage_from_the_same_rows(stage):
  def read(name):
    made = runpy.run_path(str(ROOT / "configs" / f"{name}_{stage}.py"))
    return from_dict(Config, made["get_config"]())

  one, other = read("mmdit_2b"), read("miniflux")
  assert one.latents == other.latents and one.encode == other.encode
  assert one.model.kind != other.model.kind
  devices = 128  # of the paper
  assert one.latents.rows % devices == 0
  tokens = one.latents.latent_tokens + one.latents.text_tokens
  assert tokens % 512 == 0 and tokens <= 32768
  assert np.isclose(sum(s.weight for s in one.latents.sources), 1)


def test_planned_clips_and_images_are_shaped_as_loaded_ones(tmp_path):
  settings = tiny.get_config("vae").to_dict()
  phase = dict(settings["videos"]["phases"][0], image_ratio=0.5, frames=9)
  settings["videos"]["phases"] = [dict(phase, steps=9, height=16, width=16)]
  settings["train"]["steps"] = 9
  config = from_dict(Config, settings)
  sizes = shapes_store.ShapesConfig(
    clips=3, heldout=1, frames=9, height=32, width=32
  )
  path = str(shapes_store.write(tmp_path / "shapes", sizes))
  clips = TrainingClips(dataclasses.replace(config.videos, path=path), 0)
  shape = lambda batch: {k: (x.shape, x.dtype) for k, x in batch.items()}
  loaded = [shape(batch) for batch in clips.batches(range(9), range)]
  mesh = sharding.make_mesh(config.mesh)
  planned = [shape(job.args[1]) for job in jobs.training(config, mesh)]
  assert len(planned) == 2 and all(x in loaded for x in planned)
  assert all(x in planned for x in loaded)


def test_a_perceptual_loss_is_planned_without_its_weights():
  settings = tiny.get_config("vae").to_dict()
  settings["vae_loss"]["perceptual"] = 1.0
  config = from_dict(Config, settings)
  (job,) = jobs.training(config, sharding.make_mesh(config.mesh))
  count = sum(
    int(np.prod(x.shape)) for x in jax.tree.leaves(job.parts["LPIPS"])
  )
  assert count == 14_716_160  # VGG16's convolutions and a weight a channel


def test_a_slice_takes_its_share_of_the_clips_of_a_vae():
  settings = tiny.get_config("vae").to_dict()
  phase = settings["videos"]["phases"][0]
  settings["videos"]["phases"] = [dict(phase, batch=b) for b in (4, 2)]
  settings["mesh"] = dict(data=2)
  config = from_dict(Config, settings)
  local = plan.one_slice(config, 2)
  assert [p.batch for p in local.videos.phases] == [2, 1]
  assert local.mesh.data == 1
  settings["mesh"] = dict(data=-1)
  config = from_dict(Config, settings)
  with pytest.raises(ConfigError, match=r"batch 4 is not a .*=3; nearest: 6"):
    plan.one_slice(config, 3)
