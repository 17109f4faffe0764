"""The benchmarks run, on small sizes."""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.compiling import QUICKLY

SCRIPTS = pathlib.Path(__file__).parents[1] / "benchmarks"
FIGURES = {
  "attention": ("forward", "backward", "error", "cut_errors"),
  "train": ("seconds", "tokens_per_second", "tflops"),
  "generate": ("text", "transformer", "vae"),
}
# of a process of its own, with one device
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICKLY}


def run(*arguments, script="accelerator.py"):
  return subprocess.run(
    [sys.executable, str(SCRIPTS / script), *arguments],
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("part", ["attention", "generate"])
def test_a_part_measures_every_case(part):
  result = run(part, "--tiny")
  assert result.returncode == 0, result.stderr
  lines = [json.loads(line) for line in result.stdout.splitlines()]
  assert len(lines) >= 2
  for line in lines:
    assert line["part"] == part and line["device"] == "cpu"
    assert set(FIGURES[part]) <= line.keys()
    assert {"jax", "jaxlib", "flax", "runtime"} <= line["versions"].keys()
    if part == "attention":
      assert line["backward"]["tflops"] > 0
      # 8 or 24 bits of inputs, weights and results, against float64
      most = 1e-5 if line["dtype"] == "float32" else 2e-2
      assert line["cut_errors"].keys() == {"out", "q", "k", "v"}
      assert max(line["error"], *line["cut_errors"].values()) < most


TRAIN = {"part": "train", "remat": "attention", "rows": 2, "attention": "auto"}


def test_a_training_step_is_measured():
  result = run("--tiny", "--case", json.dumps(TRAIN))
  assert result.returncode == 0, result.stderr
  line = json.loads(result.stdout)
  assert set(FIGURES["train"]) <= line.keys() and line["seconds"] > 0
  assert line["estimate"] is None  # no peaks of a CPU are known


def test_a_training_step_is_measured_beside_its_estimate(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator

  monkeypatch.setattr(accelerator, "REPEATS", 1)
  h100 = accelerator.chips.CHIPS["h100"]
  monkeypatch.setattr(accelerator.chips, "of_kind", lambda kind: h100)
  line = accelerator.run(TRAIN, tiny=True)
  assert 0 < line["estimate"]["seconds"] <= line["estimate"]["serial_seconds"]
  assert line["estimate"]["binds"] in ("compute", "memory", "network")
  assert line["estimate"]["fits"] and line["mfu"] > 0


def test_a_planner_that_fails_loses_no_measurement(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator
  import performance_document

  def fails(config):
    raise NotImplementedError("no such | device\nand more")

  monkeypatch.setattr(accelerator, "REPEATS", 1)
  monkeypatch.setattr(accelerator, "estimated", fails)
  line = accelerator.run(TRAIN, tiny=True)
  assert line["estimate"] is None and line["seconds"] > 0
  why = "NotImplementedError: no such | device"
  assert line["estimate_error"] == why
  page = performance_document.page(
    [{name: value for name, value in line.items() if name != "tiny"}]
  )
  assert f"| none: {why.replace('|', '/')} |" in page


def test_a_measured_step_is_given_what_a_run_is(monkeypatch):
  """Rows of the same dtypes are the same program, compiled once."""
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator_cases

  from pyramid_jax.cost import jobs

  config = accelerator_cases.config_of(TRAIN, tiny=True)
  planned, rows = jobs.row_batch(config), accelerator_cases.random_rows(config)
  assert planned.keys() == rows.keys()
  for name, x in rows.items():
    assert (x.shape, x.dtype) == (planned[name].shape, planned[name].dtype)


def test_no_clip_is_made_but_those_that_are_timed(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator

  case = {"part": "generate", "preset": "384p", "seconds": 5}
  config = accelerator.clip_config(case, tiny=True)
  wanted = accelerator.sampling_plan(config, config.generate, config.vae)
  clips, make = [], accelerator.generate_units

  def counted(*args, **options):
    clips.append([ends for ends in make(*args, **options)])
    return clips[-1]

  monkeypatch.setattr(accelerator, "generate_units", counted)
  _, latents = accelerator.sample(config, wanted)
  assert len(clips) == 1 + 3  # one compiles
  for found, made in zip(latents, clips[-1], strict=True):
    assert found is made[-1]


def test_attention_is_planned_with_all_that_its_kernels_execute(monkeypatch):
  """As pyramid-plan does; the share of the peak counts what is needed."""
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import accelerator_cases as script

  from pyramid_jax.cost import flops

  case = {"part": "attention", "attention": "auto", "dtype": "bfloat16"}
  config = script.config_of(case, tiny=True)
  start, end = script.key_bounds(config)
  found = script.kernel_flops(config, start, end, (1, 1))
  model = dataclasses.replace(config.model, layers=1, remat="none")
  pairs = int((end - start).sum())  # a tile of one pair holds no other
  both = flops.kernel_attention(model, pairs, train=True)
  assert found["forward"] + found["backward"] == both
  needed = script.attention_flops(config, start, end)
  assert found["forward"] == needed["forward"]
  assert 5 * found["backward"] == 7 * needed["backward"]
  tiles = script.kernel_flops(config, start, end, (64, 128))
  assert tiles["forward"] > found["forward"]


@pytest.mark.parametrize(
  "case, programs",
  [
    (
      {"part": "attention", "attention": "auto", "dtype": "bfloat16"},
      ["forward", "backward"],
    ),
    (TRAIN, ["training step"]),
    (
      {"part": "generate", "preset": "384p", "seconds": 5},
      ["text", "units up to 0 of 1 clips", "units up to 2 of 1 clips",
       "decode the first frame", "decode a unit"],
    ),
  ],
  ids=["attention", "train", "generate"],
)  # fmt: skip
def test_a_case_is_compiled_ahead_and_not_run(case, programs):
  result = run("--tiny", "--compile=cpu:1", "--case", json.dumps(case))
  assert result.returncode == 0, result.stderr
  line = json.loads(result.stdout)
  assert line["compiled_for"] == "cpu:1" and "device" not in line
  assert [x["program"] for x in line["programs"]] == programs
  for x in line["programs"]:
    assert x["fits"] and 0 <= x["temporary_gib"] < x["gib"]


def test_ways_to_tell_tokens_their_modulation_are_the_same(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import compile_modulation as script

  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 3, 8), np.float32)
  grad = rng.standard_normal((2, 50, 8), np.float32)
  segment = rng.integers(0, 4, (2, 50), np.int32)  # 0 is padding
  expected, pull = script.jax.vjp(lambda x: script.gathered(x, segment), x)
  for way in (script.product, script.mixed):
    out, other_pull = script.jax.vjp(lambda x, way=way: way(x, segment), x)
    np.testing.assert_array_equal(out, expected)
    # sums of up to 50 float32 terms in another order
    np.testing.assert_allclose(other_pull(grad)[0], pull(grad)[0], atol=1e-5)
  assert (script.whole(x, segment) != expected).any()


def test_the_page_has_a_row_for_every_case_measured_or_not(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import performance_document as document

  every = document.cases(list(document.PARTS))
  page = document.page([])
  assert page.count("| not measured |") == len(every)
  guess = {"seconds": 0.5, "serial_seconds": 0.75, "binds": "memory",
           "gib": 30.0, "fits": True}  # fmt: skip
  measured = {
    "device": "NVIDIA H100 80GB HBM3",
    "versions": {"jax": "0.10.2", "runtime": "CUDA 12", "driver": "NVRM 580"},
    **every[3], "seconds": 0.625, "least": 0.6, "most": 0.7, "mfu": 0.42,
    "peak_gib": 33.0, "estimate": guess,
  }  # fmt: skip
  page = document.page([measured])
  assert page.count("| not measured |") == len(every) - 1
  assert "0.625 s" in page and "42%" in page
  assert "0.5 to 0.75 s" in page and "memory" in page
  under = page.split("## NVIDIA H100 80GB HBM3\n")[1]
  assert under.startswith("\nAll: jax 0.10.2, runtime CUDA 12, driver NVRM 580")
  page = document.page([measured, measured | {"failed": "memory is taken"}])
  assert "0.625 s" in page
  failed = {"device": "cpu", **every[3], "failed": "memory is taken"}
  assert "| not measured: memory is taken |" in document.page([failed])
  refused = [
    {"device": "NVIDIA H100 80GB HBM3", **case, "out_of_memory": "64 GiB"}
    for case in every
  ]
  page = document.page(refused)
  assert "not measured" not in page
  assert page.count("| does not fit |") == len(every)


def test_the_page_is_made_where_the_package_is_not_installed(tmp_path):
  blocked = "import sys; sys.meta_path = [m for m in sys.meta_path if "
  blocked += "'editable' not in str(m).lower()]; import runpy; "
  blocked += "sys.argv = sys.argv[1:]; sys.path[0] = sys.argv[1]; "
  blocked += "runpy.run_path(sys.argv[0])"
  environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    [sys.executable, "-c", blocked, SCRIPTS / "performance_document.py",
     SCRIPTS], cwd=tmp_path, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr


def test_the_page_that_is_kept_is_the_one_that_is_made(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import performance_document as document

  assert document.PAGE.read_text() == document.page(document.kept())


def vae(*arguments):
  return run(*arguments, script="vae.py")


def test_a_vae_is_measured_whole_and_in_chunks(tmp_path):
  kept = tmp_path / "vae.json"
  result = vae("--tiny", f"--kept={kept}")
  assert result.returncode == 0, result.stderr
  lines = json.loads(kept.read_text())
  assert len(lines) == 8
  assert all(x["frames_per_second"] > 0 < x["temporary_mib"] for x in lines)
  text = kept.with_suffix(".md").read_text()
  assert "| encode: frames |" in text and "| decode: frames |" in text
  again = vae("--tiny", f"--kept={kept}")  # what is kept is not run again
  assert (again.returncode, again.stdout) == (0, "")


def test_a_loss_is_trained_with_and_measured(tmp_path):
  kept = tmp_path / "vae.json"
  arguments = ("--losses", "--tiny", "--steps=8", f"--work={tmp_path}/work",
               f"--kept={kept}", "--only=LPIPS")  # fmt: skip
  result = vae(*arguments)
  assert (result.returncode, result.stdout) == (0, "")
  assert "LPIPS is left out: --lpips has to name" in result.stderr
  result = vae(*arguments, "--lpips=random")
  assert result.returncode == 0, result.stderr
  (line,) = json.loads(kept.read_text())
  assert 0 < line["psnr"] < 40 and line["flicker"] > 0
  text = kept.with_suffix(".md").read_text()
  assert "| + LPIPS (random) | " in text and text.count(" dB |") == 1
  assert "**LPIPS here has random weights**" in text


def test_every_loss_has_settings_that_a_config_takes(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import vae as script

  asked = argparse.Namespace(tiny=True)
  monkeypatch.setattr(script, "shapes_folder", lambda work, tiny: work)
  found = {
    name: script.loss_config(
      {"loss": name, "steps": 8, "lpips": "random"}, asked, tmp_path
    ).vae_loss
    for name in script.VARIANTS
  }
  kinds = [loss.adversary.kind for loss in found.values()]
  assert kinds == ["none", "none", "image", "clip", "none"]
  assert found["LPIPS"].perceptual > 0 and found["LPIPS"].lpips
  assert len(set(map(str, found.values()))) == len(found)


def test_a_part_that_is_not_there_is_told():
  result = run("sampling")
  assert result.returncode == 2
  assert "sampling: there are attention, train, generate" in result.stderr


def test_rows_are_measured_and_the_document_tells_what_was(tmp_path):
  result = run("--tiny", script="data.py")
  assert result.returncode == 0, result.stderr
  found = [json.loads(line) for line in result.stdout.splitlines()]
  assert [x["part"] for x in found] == (
    ["packing"] * 4 + ["need"] * 4 + ["rows"] * 4 + ["simulate"]
  )
  for line in found[:4]:
    assert 0 < line["fill"] <= 1 and 0 < line["grain_fill"] <= 1
  sys.path.insert(0, str(SCRIPTS))
  try:
    import data_document
  finally:
    sys.path.pop(0)
  data_document.write(found, tmp_path, 0.45, 8, 64)
  text = (tmp_path / "data.md").read_text()
  for line in found[:4]:
    assert f"| {line['stage']} | {line['segments_a_row']:.1f} | " in text
  assert (tmp_path / "data.png").stat().st_size > 5000


def test_what_is_kept_of_the_curriculum_is_what_its_configs_say(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import scale

  cells = {cell.key for cell in scale.cells()}
  assert len(cells) == 32
  known = cells.union(
    cell.key for machine in scale.MACHINES for cell in scale.choices(machine)
  )
  known |= {cell.key for cell in scale.largest()}
  assert scale.kept().keys() <= known  # nothing of other rows, remat or meshes
  others = (c for machine in scale.MACHINES for c in scale.choices(machine))
  for cell in [*scale.cells(), *others, *scale.largest()]:
    if found := scale.planned(cell):
      assert found["remat"] in cell.key and found["fits"] == ("step" in found)


def test_times_follow_from_what_is_kept(monkeypatch, tmp_path):
  """As they did from the plan itself; what was refused has none."""
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import scale

  from pyramid_jax.cost import chips, plan
  from pyramid_jax.cost.compile import Compiled
  from pyramid_jax.cost.hlo import Collective

  monkeypatch.setattr(scale, "KEPT", tmp_path / "kept.json")
  cell = scale.Cell("mmdit", "image", "v6e-256")
  sent = Collective("all-gather", 128, 2, 8e9, 7e9, links=0.75)
  compiled = Compiled(
    "training step", {"parameters": 1e9}, 1e9, 4e9, 0.0, True, [], 1e13, 1e12,
    True, 0, 1e12, [sent], 60.0,
  )  # fmt: skip
  row = scale.measured("mmdit", "image", cell.target.chip.tile)
  found = plan.of_training(cell.config, cell.target, compiled, row)
  scale.keep({cell.key: scale.entry_of(cell, found)})
  known = scale.planned(cell)
  assert known == scale.summary(found) | {"limit": known["limit"]}
  assert known["limit"] == cell.target.memory / chips.GIB
  assert known["network"] == 7e9 / 0.75 / cell.target.chip.link / 0.7
  refused = dataclasses.replace(
    compiled, total=31.6 * chips.GIB, traffic=math.nan, collectives=[]
  )
  found = found._replace(compiled=refused)
  scale.keep({cell.key: scale.entry_of(cell, found)})
  assert not scale.planned(cell)["fits"] and "step" not in scale.planned(cell)


def test_every_machine_of_the_curriculum_shows_its_peaks(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import scale
  import scale_document

  table = scale_document.peaks()
  for topology, _ in scale.MACHINES.values():
    assert f"\n| {topology.split(':')[0]} | " in table
  assert scale_document.versions().startswith(f"{len(scale.kept())} compiled")


def test_published_hours_are_shares_of_the_gpus_peak(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import scale_published

  hour = 128 * 312e12 * 3600
  spent = scale_published.Spent(hour, hour, 0.0, 2 * hour)
  np.testing.assert_allclose(spent.share(10), [0.1, 0.2, 0.2, 0.4])


# a narrower VAE than that of configs/shapes_cpu.py, hardly trained
