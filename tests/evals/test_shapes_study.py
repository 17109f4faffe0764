"""benchmarks/shapes_study.py: minutes of training, as metrics tell them."""

import importlib
import json
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def test_minutes_of_training_count_compiling_and_every_start(
  tmp_path, monkeypatch
):
  lines = [
    {"step": 10, "loss": 1.0, "first_step_seconds": 30.0,
     "steps_per_second": 0.3},  # 30 s, then nine steps in 30 s
    {"step": 12, "spike": 1.0},
    {"step": 20, "loss": 0.5, "steps_per_second": 0.5},  # 20 s
    {"step": 20, "psnr": 30.0},
    {"step": 21, "loss": 0.5, "first_step_seconds": 40.0},  # another start
    {"step": 30, "loss": 0.4, "steps_per_second": 0.15},  # 60 s
  ]  # fmt: skip
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "metrics.jsonl").write_text(text)
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  study = importlib.import_module("shapes_study")
  assert study.minutes(tmp_path) == pytest.approx(
    {10: 1.0, 20: 4 / 3, 21: 2.0, 30: 3.0}
  )
