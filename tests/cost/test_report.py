"""What a plan says of a run: times, exchanges, what else there is to try."""

import dataclasses
import pathlib
import runpy

import numpy as np
import pytest

from pyramid_jax.config import Config, ConfigError, differences, from_dict
from pyramid_jax.cost import chips, estimate, plan, report, variants
from pyramid_jax.cost.compile import Compiled
from pyramid_jax.cost.flops import Flops
from pyramid_jax.cost.hlo import Collective
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]


def sweep_of(monkeypatch, answer):
  """The changes that a sweep makes to the tiny run, and what it prints."""
  asked = []

  def make(config, target, **_):
    asked.append(config)
    yield answer(config)

  monkeypatch.setattr(plan, "make", make)
  config = from_dict(Config, tiny.get_config().to_dict())
  first = made(config)
  return asked, list(report.sweep(variants.sweep(first)))


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


def test_phases_that_a_config_lacks_are_told():
  """As `--vae` meets them in a transformer's config."""
  config = from_dict(Config, tiny.get_config("vae").to_dict())
  assert "assumed" not in dict(report.lines(made(config)))
  config = dataclasses.replace(config, videos=Config().videos)
  told = dict(report.lines(made(config)))["assumed"]
  assert told.startswith(
    "no phases in the config: 1,000 steps of 8 clips of 1 x"
  )
  assert "configs/vae_short.py" in told
  transformers = dataclasses.replace(config, kind="dit")
  assert "assumed" not in dict(report.lines(made(transformers)))


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


def test_of_what_a_compiler_refuses_nothing_is_made_up():
  config = from_dict(Config, tiny.get_config().to_dict())
  known = made(config, fits=False)
  compiled = dataclasses.replace(
    known.compiled, parts={"parameters": 2.0**30}, temp=np.nan, total=np.nan,
    traffic=np.nan, counted=np.nan,
  )  # fmt: skip
  known = known._replace(mesh=dict(data=1, fsdp=8), compiled=compiled)
  lines = report.lines(known)
  assert "nan" not in report.text(lines)
  found = dict(lines)
  assert found["collectives"] == "unknown: the compiler refuses the program"
  assert found["in all"] == "more than there is: DOES NOT FIT"
  assert found["HBM a device"].endswith("temporaries unknown")
  assert dict(report.lines(made(config)))["collectives"] == "none"


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
  target = chips.target("v5p:2x2x2")
  assert all(variants.is_possible(c, target) for c in asked)
  assert {c.model.remat for c in asked} == {
    "none", "matmuls", "attention", "layer",
  }  # fmt: skip
  starts = [line.index("3.00") for line in lines[1:]]
  assert set(starts) == {lines[0].index("HBM")}  # columns


def test_a_sweep_goes_on_after_what_cannot_be(monkeypatch):
  def answer(config):
    if config.mesh.tensor == 2:
      raise ConfigError("9 rows cannot be split.\nMore.")
    return made(config, fits=config.mesh.sequence == 1)

  asked, lines = sweep_of(monkeypatch, answer)
  (refused_line,) = [x for x in lines if x.endswith("9 rows cannot be split.")]
  assert refused_line.startswith("mesh tensor 2")
  (no,) = [x for x in lines if x.startswith("mesh sequence 4")]
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
  unknown = report.course(made(config, fits=False), [("longer.py", longer)])
  assert unknown == [("all stages", "unknown: this one does not fit")]


@pytest.mark.parametrize(
  "model, topology, mesh, within",
  [
    ("mmdit", "v5p:8x8x16", {}, 8),  # 1024 devices for 128 rows
    ("mmdit", "v5p:4x4x4", {}, 1),
    ("mmdit", "v6e:16x16", {"tensor": 2}, 2),
    ("mmdit", "v6e:16x16", {}, 2),
    ("mmdit", "h100:256", {"data": -1, "fsdp": 8}, 2),
    ("miniflux", "v5p:4x8x8", {}, 2),
    ("miniflux", "v5p:8x8x8", {}, (2, 2)),  # 4 do not divide 30 heads
    ("mmdit", "v6e:16x16", {"fsdp": 256}, 1),  # as it is asked for: refused
  ],
)
def test_devices_share_rows_where_there_are_more_devices(
  model, topology, mesh, within
):
  config = of_curriculum(f"{model}_768p", **mesh)
  target = chips.target(topology)
  found = variants.suited(config, target)
  tensor, sequence = within if isinstance(within, tuple) else (within, 1)
  assert (found.mesh.tensor, found.mesh.sequence) == (tensor, sequence)
  advice = report.advice(config, found)
  assert (f"--config.mesh.tensor={tensor}" in advice) == (found != config)
  assert (f"--config.mesh.sequence={sequence}" in advice) == (sequence > 1)


def of_curriculum(name, **mesh):
  """A stage on another mesh."""
  made = runpy.run_path(str(ROOT / "configs" / "curriculum.py"))
  config = from_dict(Config, made["get_config"](name))
  changed = dataclasses.replace(config.mesh, **mesh)
  return dataclasses.replace(config, mesh=changed)


def test_devices_share_the_microbatches_of_rows():
  config = of_curriculum("mmdit_768p")
  train = dataclasses.replace(config.train, microbatches=2)
  config = dataclasses.replace(config, train=train)
  found = variants.suited(config, chips.target("v6e:16x16"))
  assert found.mesh.tensor == 4
  assert report.advice(config, found).startswith("128 rows in 2 microbatches c")


def test_devices_share_the_clips_of_a_vae_by_their_height():
  settings = runpy.run_path(str(ROOT / "configs" / "vae_short.py"))
  config = from_dict(Config, settings["get_config"]())  # 16 clips of 256 x 256
  target = chips.target("v5p:4x4x4")
  found = variants.suited(config, target)
  assert (found.mesh.tensor, found.mesh.sequence) == (1, 4)
  assert report.advice(config, found) == (
    "the clips of a batch cannot be split over so many devices. Planned with "
    "the height of clips over 4; the run needs --config.mesh.sequence=4 too."
  )
  # 64 parts of a height of 256 are no whole rows of latents
  assert variants.suited(config, chips.target("v5p:8x8x16")) == config


@pytest.mark.parametrize("topology", ["v5p:8x8x16", "v6e:16x16", "v5p:4x4x4"])
def test_a_sweep_tries_what_the_devices_divide(topology):
  target = chips.target(topology)
  config = variants.suited(of_curriculum("mmdit_768p"), target)
  found = dict(variants.changes(config, target))
  meshes = [name for name in found if name.startswith("mesh ")]
  assert len(meshes) >= 3 and len(found) - len(meshes) >= 3
  axes = [estimate.mesh_of(found[name], target) for name in meshes]
  assert len({tuple(a.values()) for a in axes}) == len(meshes)  # none twice
  for name, changed in found.items():
    assert changed != config and len(name) <= report.WIDTHS[0]
    mesh = estimate.mesh_of(changed, target)
    assert changed.latents.rows % (mesh["data"] * mesh["fsdp"]) == 0
    assert changed.model.heads % mesh["tensor"] == 0
