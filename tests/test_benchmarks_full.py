"""The benchmarks run, on small sizes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "accelerator.py"
FIGURES = {
  "attention": ("forward", "forward_backward", "error", "gradient_error"),
  "train": ("seconds", "tokens_per_second", "tflops"),
  "generate": ("text", "transformer", "vae"),
}


def run(*arguments):
  # a process of its own, with one device and the compiler as users have it
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  return subprocess.run(
    [sys.executable, str(SCRIPT), *arguments],
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


def test_a_part_that_is_not_there_is_told():
  result = run("sampling")
  assert result.returncode == 2
  assert "sampling: there are attention, train, generate" in result.stderr


def test_rows_are_measured_and_the_document_tells_what_was(tmp_path):
  script = SCRIPT.with_name("data.py")
  result = subprocess.run(
    [sys.executable, str(script), "--tiny"], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  found = [json.loads(line) for line in result.stdout.splitlines()]
  assert [x["part"] for x in found] == (
    ["packing"] * 4 + ["need"] * 4 + ["rows"] * 2 + ["simulate"]
  )
  for line in found[:4]:
    assert 0 < line["fill"] <= 1 and 0 < line["grain_fill"] <= 1
  sys.path.insert(0, str(script.parent))
  try:
    import data_document
  finally:
    sys.path.pop(0)
  data_document.write(found, tmp_path, 0.45, 8, 64)
  text = (tmp_path / "data.md").read_text()
  for line in found[:4]:
    assert f"| {line['stage']} | {line['segments_a_row']:.1f} | " in text
  assert (tmp_path / "data.png").stat().st_size > 5000
