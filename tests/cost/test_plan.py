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
from pyramid_jax.config import Config, ConfigError, differences, from_dict
from pyramid_jax.cost import chips, estimate, jobs, plan, report
from pyramid_jax.cost.compile import Compiled, attempt, tree_bytes
from pyramid_jax.cost.flops import Flops
from pyramid_jax.cost.hlo import Collective
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
ROOT = pathlib.Path(__file__).parents[2]


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
    (["topology=cpu:8", "config.mesh.data=0"], "needs 0 devices; there are 8"),
    (["topology=cpu:8", "config.latents.rows=9"], "9 rows cannot be split"),
    (
      ["topology=cpu:2", "config.train.microbatches=2"]
      + ["config.latents.rows=2"],
      "a step's batch 2 is not a multiple of config.train.microbatches 2 x",
    ),
    (["topology=cpu:8", "slices=3"], r"mesh\.data 1 is not a .* --slices=3"),
    (
      ["topology=cpu:8", "vae", "generate"],
      "--vae, --generate or --sweep, one",
    ),
    (["topology=cpu:8", "generate", "sweep"], "one of them; --sweep is of a"),
    (["topology=cpu:8", "sweep", "config.kind=vae"], "--sweep is of a"),
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


def sweep_of(monkeypatch, answer):
  """The changes that a sweep makes to the tiny run, and what it prints."""
  asked = []

  def make(config, target, **_):
    asked.append(config)
    yield answer(config)

  monkeypatch.setattr(plan, "make", make)
  config = from_dict(Config, tiny.get_config().to_dict())
  first = made(config)
  return asked, list(report.sweep(plan.sweep(first)))


def made(config, fits=True):
  """A plan of which nothing but memory is known."""
  compiled = Compiled(
    "step", {}, 0.0, 3 * 2.0**30, 95 * 2.0**30, fits, [], 0.0, 0.0, False, 0,
    0.0, [], 1.0,
  )  # fmt: skip
  target = chips.target("v5p:2x2x2")
  return plan.Plan(config, target, {}, compiled, None, None, None, Flops(0, 0))


def estimated(config, *seconds, topology="v5p:2x2x2", slices=1, slow=None):
  """A plan of a machine of which the time is known as well."""
  target = chips.target(topology, slices=slices, slow=slow)
  known = made(config)
  compiled = dataclasses.replace(known.compiled, parts={"parameters": 8e9})
  return known._replace(
    target=target, compiled=compiled, estimate=estimate.Estimate(*seconds)
  )


def test_an_estimate_says_which_peaks_it_took():
  config = from_dict(Config, tiny.get_config().to_dict())
  lines = dict(report.lines(estimated(config, 1.0, 2.0, 3.0)))
  assert lines["peaks"] == (
    "v5p: 459 bfloat16 TFLOP/s, HBM 2,765 GB/s, fast network 600 GB/s, slow "
    "network 6.25 GB/s a device; the makers' figures"
  )
  given = estimated(config, 1.0, 2.0, 3.0, topology="h100:16", slow=25e9)
  assert "slow network 25 GB/s" in dict(report.lines(given))["peaks"]
  assert "(--slow_gbps)" in dict(report.lines(given))["peaks"]


def test_an_exchange_says_what_it_has_of_a_tpus_links():
  config = from_dict(Config, tiny.get_config().to_dict())
  sent = Collective("all-reduce", 8, 1, 12.0, 12.0, links=1 / 3)
  for topology, ending in (
    ("v5p:8x8x16", "12 sent by a device on 2 of 6 links"),
    ("h100:8", "12 sent by a device"),
  ):
    known = estimated(config, 1.0, 2.0, 3.0, topology=topology)
    compiled = dataclasses.replace(known.compiled, collectives=[sent])
    lines = dict(report.lines(known._replace(compiled=compiled)))
    assert lines["collectives"].endswith(ending)


def test_heads_that_an_axis_does_not_split_are_counted_whole():
  config = from_dict(Config, tiny.get_config().to_dict())
  heads = config.model.heads
  assert estimate.repeated(config, {"tensor": heads}) == 1
  assert estimate.repeated(config, {"tensor": heads + 1}) == heads + 1
  known = made(config)._replace(mesh={"tensor": heads + 1})
  assert "attention whole on tensor" in dict(report.lines(known))["mesh"]


def test_a_slower_network_is_given_in_gbits():
  sent = Collective("all-reduce", 16, 1, 16e9, 30e9)
  target = chips.target("h100:16", slow=12.5e9)
  found = estimate.roofline(
    target.chip, Flops(0, 0), 0.0, *estimate.split([sent], target)
  )
  np.testing.assert_allclose(found.network, 30 / 12.5 / 0.7)


def test_a_plan_of_slices_says_that_one_was_compiled():
  config = from_dict(Config, tiny.get_config().to_dict())
  assert "slices" not in dict(report.lines(estimated(config, 1.0, 2.0, 3.0)))
  known = estimated(config, 1.0, 2.0, 3.0, slices=4)
  text = dict(report.lines(known))["slices"]
  assert text.startswith("compiled as one of 4; ")
  assert f"{2 * 8e9 * 3 / 4:.3g} bytes sent" in text


def test_a_slice_takes_its_share_of_the_rows():
  settings = tiny.get_config().to_dict()
  settings["mesh"] = dict(data=4, fsdp=2)
  local = plan.one_slice(from_dict(Config, settings), 2)
  assert (local.mesh.data, local.mesh.fsdp) == (2, 2)
  assert local.latents.rows == settings["latents"]["rows"] // 2
  with pytest.raises(ConfigError, match=r"rows 8 is not .*=3; nearest: 9"):
    settings["mesh"] = dict(data=3)
    plan.one_slice(from_dict(Config, settings), 3)


def test_phases_of_a_vae_last_as_long_as_their_steps():
  settings = tiny.get_config("vae").to_dict()
  phase = dict(settings["videos"]["phases"][0], batch=8)
  settings["videos"]["phases"] = [
    dict(phase, steps=86400),
    dict(phase, steps=43200, image_ratio=0.25, frames=9, images=16),
  ]
  config = from_dict(Config, settings)
  plans = [
    estimated(config, *seconds)
    for seconds in ((2.0, 1.0, 0.0), (4.0, 2.0, 2.0), (8.0, 0.0, 0.0))
  ]
  # a step of the second phase: 3/4 of 4 s and 1/4 of 8 s, serial 8 s and 8 s
  assert report.phases(plans) == [
    ("phase 1", "86,400 steps: 4 clips/s; 2.00 to 3.00 days, 384 to 576 "
     "chip-hours"),
    ("phase 2", "43,200 steps: 1.2 clips/s, 0.8 images/s; 2.50 to 4.00 days, "
     "480 to 768 chip-hours"),
    ("all phases", "4.50 to 7.00 days, 864 to 1,344 chip-hours"),
  ]  # fmt: skip
  unknown = plans[-1]._replace(estimate=None)
  assert report.phases([*plans[:-1], unknown]) == []


@pytest.mark.parametrize(
  "mesh, tried",
  [
    (
      dict(data=2, fsdp=2),
      "--config.train.microbatches=2, --config.model.remat=layer, "
      "--config.mesh.data=1 with --config.mesh.fsdp=-1, more devices; ",
    ),
    (dict(data=1, fsdp=8), "--config.model.remat=layer, more devices; "),
  ],
)
def test_what_does_not_fit_is_told_what_it_may_try(mesh, tried):
  config = from_dict(Config, tiny.get_config().to_dict())
  plan = made(config, fits=False)._replace(mesh=mesh)
  assert dict(report.lines(plan))["try"].startswith(tried + "--sweep")
  assert "try" not in dict(report.lines(made(config)))
  sampled = plan._replace(sampler=True)
  assert "microbatches" not in dict(report.lines(sampled))["try"]


def test_a_plan_for_gpus_says_what_jax_has_to_be_told():
  known = made(from_dict(Config, tiny.get_config().to_dict()))
  target = chips.target("h100:8")
  known = known._replace(target=target)
  told = "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92"
  assert told not in report.text(report.lines(known))  # another limit
  compiled = dataclasses.replace(known.compiled, limit=target.memory)
  text = report.text(report.lines(known._replace(compiled=compiled)))
  assert "of 72.77 GiB: fits" in text and told in text


def test_a_sweep_changes_one_thing_at_a_time(monkeypatch):
  asked, lines = sweep_of(monkeypatch, made)
  original = from_dict(Config, tiny.get_config().to_dict())
  assert original not in asked  # it is planned already
  for config in asked:
    (change,) = differences(original, config)[:1]
    group = change.split(":")[0].rsplit(".", 1)[0]
    assert all(d.startswith(group) for d in differences(original, config))
  assert len(lines) == 2 + len(asked)
  assert {c.train.microbatches for c in asked} == {1, 2, 4}
  assert {c.model.remat for c in asked} == {
    "none", "matmuls", "attention", "layer",
  }  # fmt: skip
  starts = [line.index("3.00") for line in lines[1:]]
  assert set(starts) == {lines[0].index("HBM")}  # columns


def test_a_sweep_goes_on_after_what_cannot_be(monkeypatch):
  def answer(config):
    if config.mesh.tensor == 2:
      raise ConfigError("9 rows cannot be split.\nMore.")
    return made(config, fits=config.mesh.tensor == 1)

  asked, lines = sweep_of(monkeypatch, answer)
  (refused_line,) = [x for x in lines if x.endswith("9 rows cannot be split.")]
  assert refused_line.startswith("mesh fsdp the rest, tensor 2")
  (no,) = [x for x in lines if x.startswith("mesh fsdp the rest, tensor 4")]
  assert no.split()[-5] == "no"
  assert lines.index(no) > lines.index(refused_line)


def test_days_of_other_stages_follow_from_this_ones_utilisation():
  config = from_dict(Config, tiny.get_config().to_dict())
  target = chips.target("v5p:2x2x2")
  run = plan.formula(config, target)
  longer = dataclasses.replace(
    config, train=dataclasses.replace(config.train, steps=30)
  )
  known = made(config)._replace(run=run)
  lines = dict(report.course(known, [("longer.py", longer)]))
  share = 30 / config.train.steps
  np.testing.assert_allclose(
    estimate.days_alike(run, longer, target), share * run.days
  )
  assert lines["longer.py"].startswith("30 steps: ")
  hours = 24 * 8 * (1 + share) * run.days
  assert lines["all stages"].endswith(f"days, {hours:,.0f} chip-hours")


@pytest.mark.parametrize(
  "model, topology, mesh, tensor",
  [
    ("mmdit", "v5p:8x8x16", {}, 8),  # 1024 devices for 128 rows
    ("mmdit", "v5p:4x4x4", {}, 1),
    ("mmdit", "v6e:16x16", {"tensor": 2}, 2),
    ("mmdit", "v6e:16x16", {}, 2),
    ("mmdit", "h100:256", {"data": -1, "fsdp": 8}, 2),
    ("miniflux", "v5p:4x8x8", {}, 2),
    ("miniflux", "v5p:8x8x8", {}, 1),  # 4 do not divide 30 heads: refused
    ("mmdit", "v6e:16x16", {"fsdp": 256}, 1),  # as it is asked for: refused
  ],
)
def test_devices_share_rows_where_there_are_more_devices(
  model, topology, mesh, tensor
):
  made = runpy.run_path(str(ROOT / "configs" / "curriculum.py"))
  config = from_dict(Config, made["get_config"](f"{model}_768p"))
  changed = dataclasses.replace(config.mesh, **mesh)
  config = dataclasses.replace(config, mesh=changed)
  target = chips.target(topology)
  found = plan.suited(config, target)
  assert found.mesh.tensor == tensor
  asked = f"--config.mesh.tensor={tensor}" in report.advice(config, found)
  assert asked == (found != config)
