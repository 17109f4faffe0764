"""pyramid-evaluate with a model: clips are made once, whatever happens."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from pyramid_jax.data import shapes
from pyramid_jax.evals import shapes_run
from pyramid_jax.generate import export
from tests import tiny
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


def test_a_continuation_is_scored_after_the_given_frames(tmp_path, workdirs):
  flags = evaluate(workdirs, tmp_path, "given=9", "frames=17")
  result = run(*flags)
  assert result.code == 0, result.err
  found = json.loads((tmp_path / "results.json").read_text())
  assert [c["frames"] for c in found["clips"]] == [17, 17, 17]
  truth = shapes_run.Dataset(workdirs.shapes).heldout(3)
  for i, question in enumerate(truth):
    frames, _ = export.read_mp4(tmp_path / "clips" / f"{i:05d}.mp4")
    assert len(frames) == 17 and found["clips"][i]["prompt"] == question.prompt
  refused(
    r"given 8 is not 8 n \+ 1 below the clip's 17 frames",
    *evaluate(workdirs, tmp_path / "other", "given=8", "frames=17"),
  )


def test_a_long_clip_has_a_line_for_each_training_length(tmp_path, workdirs):
  result = run(*evaluate(workdirs, tmp_path, "frames=65"))
  assert result.code == 0, result.err
  found = json.loads((tmp_path / "results.json").read_text())
  # of 9 frames each; the last two frames are too few to be read
  assert [len(c["windows"]) for c in found["clips"]] == [7, 7, 7]
  lines = result.out.split("| window | clips |")[1].splitlines()[2:]
  assert [line.split(" | ")[0] for line in lines[:7]] == [
    f"| {i}" for i in range(1, 8)
  ]
  assert lines[0].startswith("| 1 | 3 | ")


def test_prompts_of_a_file_are_asked_for_in_its_order(tmp_path, workdirs):
  prompts = [shapes.render(i, 7, 9).caption for i in range(2)]
  (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
  file = f"prompts={tmp_path}/prompts.txt"
  result = run(*evaluate(workdirs, tmp_path / "out", file))
  assert result.code == 0, result.err
  found = json.loads((tmp_path / "out" / "results.json").read_text())
  assert [c["prompt"] for c in found["clips"]] == prompts
  assert found["settings"]["prompts"] == f"{tmp_path}/prompts.txt"
  refused(
    "have no true clips to go on from",
    *evaluate(workdirs, tmp_path / "b", file, "given=1"),
  )
  (tmp_path / "prompts.txt").write_text("a cat\n")
  refused("'a cat' is no caption", *evaluate(workdirs, tmp_path / "c", file))


def test_a_vae_alone_gives_heldout_clips_back(tmp_path, workdirs):
  command = ("evaluate", f"vae={workdirs.vae}", f"shapes={workdirs.shapes}",
             f"out={tmp_path}", "n=3", "batch=2")  # fmt: skip
  result = run(*command)
  assert result.code == 0, result.err
  found = json.loads((tmp_path / "results.json").read_text())
  truth = shapes_run.Dataset(workdirs.shapes).heldout(3)
  for i, question in enumerate(truth):
    frames, made = export.read_mp4(tmp_path / "clips" / f"{i:05d}.mp4")
    assert made["prompt"] == question.prompt
    assert frames.shape == question.truth.shape
  (tmp_path / "clips" / "00001.mp4").unlink()
  assert run(*command).code == 0
  assert json.loads((tmp_path / "results.json").read_text()) == found


def test_the_study_fills_its_table_variant_by_variant(tmp_path, workdirs):
  study = [
    sys.executable, "benchmarks/shapes_study.py", "--tiny", "--stages=2",
    "--n=2", "--batch=2", f"--config={tiny.__file__}",
    f"--workdir={workdirs.dit}", f"--out={tmp_path}",
    f"--train=--data={workdirs.latents}",
    f"--train=--config.text.path={workdirs.text}",
    f"--evaluate=--shapes={workdirs.shapes}",
  ]  # fmt: skip
  root = pathlib.Path(__file__).parents[2]
  environment = {**os.environ, "PYTHONPATH": str(root)}
  go_on = lambda *more: subprocess.run(
    [*study, *more], cwd=root, env=environment, capture_output=True, text=True
  )
  first = go_on("--most=1")
  assert first.returncode == 0, first.stderr
  assert "| as configured |" in first.stdout and "EMA" not in first.stdout
  kept = (tmp_path / "as_configured" / "results.json").stat().st_mtime_ns
  rest = go_on()
  assert rest.returncode == 0, rest.stderr
  lines = (tmp_path / "study.md").read_text().splitlines()
  folders = (pathlib.Path(workdirs.dit) / "checkpoints").glob("[0-9]*")
  *earlier, _ = sorted(int(folder.name) for folder in folders)
  assert [line.split(" | ")[0] for line in lines[2:]] == [
    "| as configured", *(f"| after {step} steps" for step in earlier),
    "| last weights, no EMA", "| guidance 0", "| 2 steps a stage",
    "| learning rate 0.0025",
  ]  # fmt: skip
  rows = [line.split(" | ") for line in lines[2:]]
  trained = [float(row[1]) for row in (*rows[1:-4], rows[0])]
  assert trained == sorted(trained) and trained[0] > 0  # minutes
  assert all(row[1] == "" for row in rows[-4:])
  assert (
    tmp_path / "as_configured" / "results.json"
  ).stat().st_mtime_ns == kept
  assert (tmp_path / "study.png").stat().st_size > 1000
  other = go_on("--n=3")
  assert other.returncode == 1
  assert "as_configured was done otherwise (clips 2, now 3)" in other.stderr
