"""The benchmarks run, on small sizes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "benchmarks"
FIGURES = {
  "attention": ("forward", "forward_backward", "error", "gradient_error"),
  "train": ("seconds", "tokens_per_second", "tflops"),
  "generate": ("text", "transformer", "vae"),
}


def run(*arguments, script="accelerator.py"):
  # a process of its own, with one device and the compiler as users have it
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  return subprocess.run(
    [sys.executable, str(SCRIPTS / script), *arguments],
    env=environment,
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
    if part == "attention":
      assert line["error"] < (1e-5 if line["dtype"] == "float32" else 2e-2)
      assert line["gradient_error"] < 1e-4  # both in float32


def test_a_training_step_is_measured():
  case = {"part": "train", "remat": "attention", "rows": 2}
  result = run("--tiny", "--case", json.dumps(case))
  assert result.returncode == 0, result.stderr
  line = json.loads(result.stdout)
  assert set(FIGURES["train"]) <= line.keys() and line["seconds"] > 0


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


def test_each_loss_is_trained_with_and_measured(tmp_path):
  kept = tmp_path / "vae.json"
  arguments = ("--losses", "--tiny", "--steps=8", f"--work={tmp_path}/work")
  result = vae(*arguments, f"--kept={kept}")
  assert result.returncode == 0, result.stderr
  assert "LPIPS is left out: --lpips has to name" in result.stderr
  result = vae(*arguments, f"--kept={kept}", "--lpips=random")
  assert result.returncode == 0, result.stderr
  lines = json.loads(kept.read_text())
  assert len(lines) == 5
  assert all(0 < x["psnr"] < 40 and x["flicker"] > 0 for x in lines)
  text = kept.with_suffix(".md").read_text()
  assert (
    text.count(" dB |") == 5 and "**LPIPS here has random weights**" in text
  )


def test_a_part_that_is_not_there_is_told():
  result = run("sampling")
  assert result.returncode == 2
  assert "sampling: there are attention, train, generate" in result.stderr


def test_rows_are_measured_and_the_document_tells_what_was(tmp_path):
  result = run("--tiny", script="data.py")
  assert result.returncode == 0, result.stderr
  found = [json.loads(line) for line in result.stdout.splitlines()]
  assert [x["part"] for x in found] == (
    ["packing"] * 4 + ["need"] * 4 + ["rows"] * 2 + ["simulate"]
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
  assert scale.kept().keys() <= known  # nothing of other rows, remat or meshes
  for key, entry in scale.kept().items():
    assert entry["remat"] in key and entry["fits"] == ("step" in entry)


def test_published_hours_are_shares_of_the_gpus_peak(monkeypatch):
  monkeypatch.syspath_prepend(str(SCRIPTS))
  import scale_published

  hour = 128 * 312e12 * 3600
  spent = scale_published.Spent(hour, hour, 0.0, 2 * hour)
  np.testing.assert_allclose(spent.share(10), [0.1, 0.2, 0.2, 0.4])
