"""pyramid-evaluate with a model: clips are made once, whatever happens."""

import json

import numpy as np

from pyramid_jax.generate import export
from tests.commands import refused, run


def evaluate(workdirs, out, *more):
  return ("evaluate", f"workdir={workdirs.dit}", f"shapes={workdirs.shapes}",
          f"out={out}", "n=3", "batch=2", *more)  # fmt: skip


def test_a_second_run_makes_what_is_missing_and_the_same_results(
  tmp_path, workdirs
):
  result = run(*evaluate(workdirs, tmp_path))
  assert result.code == 0, result.err
  assert "| background |" in result.out
  clips = sorted((tmp_path / "clips").glob("*.mp4"))
  assert [c.name for c in clips] == ["00000.mp4", "00001.mp4", "00002.mp4"]
  first = json.loads((tmp_path / "results.json").read_text())
  kept = clips[0].stat().st_mtime_ns
  pixels = export.read_mp4(clips[2])[0]
  clips[2].unlink()
  assert run(*evaluate(workdirs, tmp_path)).code == 0
  assert clips[0].stat().st_mtime_ns == kept
  np.testing.assert_array_equal(export.read_mp4(clips[2])[0], pixels)
  assert json.loads((tmp_path / "results.json").read_text()) == first
  refused(
    r"other settings \(its -> now\): guidance: 2\.0 -> 1\.0\. Choose another",
    *evaluate(workdirs, tmp_path, "guidance=1"),
  )


def test_clips_that_go_on_from_an_image_are_scored_after_it(tmp_path, workdirs):
  result = run(*evaluate(workdirs, tmp_path, "given=1"))
  assert result.code == 0, result.err
  found = json.loads((tmp_path / "results.json").read_text())
  assert found["settings"]["given"] == 1
  assert [c["frames"] for c in found["clips"]] == [5, 5, 5]
