"""pyramid-score from end to end; what it cannot do is one line."""

import json
import pathlib

import numpy as np
import pytest

from pyramid_jax.generate import benchmark, export
from tests import commands
from tests.commands import refused
from tests.evals.test_evalcrafter import RAW
from tests.evals.test_vbench import PYRAMID


def score(*arguments):
  """Of the arguments those with "=" are flags."""
  parts = [str(a) for a in arguments]
  return ["score", *(p if "=" in p else pathlib.Path(p) for p in parts)]


def run(*arguments):
  return commands.run(*score(*arguments), files=True)


def test_vbench_scores_are_printed_and_kept(tmp_path):
  (tmp_path / "raw.json").write_text(json.dumps(PYRAMID))
  result = run("vbench", tmp_path, f"out={tmp_path}/kept/scores.json")
  assert result.code == 0
  assert [line.split() for line in result.out.splitlines()[-3:]] == [
    ["quality", "84.75"], ["semantic", "69.62"], ["total", "81.72"]
  ]  # fmt: skip
  kept = json.loads((tmp_path / "kept/scores.json").read_text())
  assert round(kept["total"], 2) == 81.72 and kept["missing"] == []


def test_partial_scores_say_what_is_missing_and_end_with_1(tmp_path):
  raw = {k: v for k, v in PYRAMID.items() if k != "scene"}
  (tmp_path / "raw.json").write_text(json.dumps(raw))
  result = run("vbench", tmp_path / "raw.json")
  assert result.code == 1 and result.err == ""
  lines = result.out.splitlines()
  (line,) = (line for line in lines if line.startswith("scene"))
  assert line.split(None, 1)[1] == (
    "missing; needs Tag2Text (tag2text_swin_14m.pth)"
  )
  assert lines[-3].endswith("84.75") and lines[-1].endswith("(partial)")


def test_evalcrafter_scores_are_printed(tmp_path):
  (tmp_path / "m.json").write_text(json.dumps(RAW))
  lines = run("evalcrafter", tmp_path / "m.json").out.splitlines()
  assert lines[0].split() == ["visual", "67.94"]
  assert lines[-1].split() == ["sum", "243.66"]


def test_flickering_of_a_folder_is_a_result_of_vbench(tmp_path):
  still = np.full((9, 16, 16, 3), 60, np.uint8)
  flickers = still.copy()
  flickers[::2] += 102
  export.write_clip(tmp_path / "clips/a-0.mp4", still, 24)
  export.write_clip(tmp_path / "clips/b-0.mp4", flickers, 24)
  file = tmp_path / "results/flicker.json"
  result = run("flicker", tmp_path / "clips", f"out={file}")
  assert result.code == 0 and "of 2 clips" in result.out
  value, each = json.loads(file.read_text())["temporal_flickering"]
  # 0 and 102 / 255, as far as H.264 keeps gray
  np.testing.assert_allclose(
    [v["video_results"] for v in each], [1, 0.6], atol=0.01
  )
  np.testing.assert_allclose(value, 0.8, atol=0.01)
  result = run("vbench", tmp_path / "results")
  assert result.code == 1 and "semantic                not" in result.out


def test_values_are_not_written_where_they_would_be_read(tmp_path):
  results = tmp_path / "results"
  results.mkdir()
  (results / "raw.json").write_text(json.dumps(PYRAMID))
  (results / "final_result.txt").write_text(f"Metrics: {RAW}\n")
  clip = np.zeros((3, 16, 16, 3), np.uint8)
  export.write_clip(tmp_path / "clips/a.mp4", clip, 24)
  files = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}
  for kind, path, out in (
    ("vbench", "results", "results/scores.json"),
    ("vbench", "results/raw.json", "results/raw.json"),
    ("evalcrafter", "results", "results/final_result.txt"),
    ("flicker", "clips", "clips/flicker.mp4"),
  ):
    refused(
      rf"--out=.*{out} would be among what is read of .*{path}; name a file",
      *score(kind, tmp_path / path, f"out={tmp_path / out}"), files=True,
    )  # fmt: skip
  assert {p: p.read_bytes() for p in tmp_path.rglob("*.*")} == files
  out = f"out={results}/scores.json"  # it reads one other file of it
  for _ in range(2):
    assert run("evalcrafter", results, out).code == 0
  clips = tmp_path / "clips"  # no video, so that it is not read
  for _ in range(2):
    assert run("flicker", clips, f"out={clips}/flicker.json").code == 0


def test_a_part_of_a_benchmark_is_enough_only_if_that_is_said(tmp_path):
  (tmp_path / "p.txt").write_text("a\n")
  clips = benchmark.make_clips("vbench", tmp_path / "p.txt", tmp_path / "out")
  sizes = dict(seed=0, fps=24.0, frames=3, height=16, width=16)
  benchmark.keep_manifest(tmp_path / "out", "vbench", clips, sizes)
  for clip in clips:
    export.write_clip(clip.path, np.zeros((3, 16, 16, 3), np.uint8), 24)
  result = run("clips", tmp_path / "out", f"out={tmp_path}/kept.json")
  assert result.code == 1
  assert result.out.splitlines() == [
    "5 of 5 clips",
    "vbench: a part: 1 of 944 prompts, 5 of 6,220 clips, of 3 frames where "
    "published ones have 121; --part says that it is meant",
  ]
  assert json.loads((tmp_path / "kept.json").read_text())["full"] is False
  assert run("clips", tmp_path / "out", "part=true").code == 0
  made_with = (tmp_path / "out.json").read_text()
  for kind in ("clips", "flicker"):
    refused(
      r"--out=.*out\.json is where pyramid-generate --benchmark says what",
      *score(kind, tmp_path / "out", f"out={tmp_path}/out.json"), files=True,
    )  # fmt: skip
  assert (tmp_path / "out.json").read_text() == made_with
  clips[3].path.unlink()
  assert run("clips", tmp_path / "out", "part=true").code == 1


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], r"'' is not to be scored; there are clips, vbench, evalcrafter,"),
    (["fid"], "'fid' is not to be scored"),
    (["vbench"], r"pyramid-score vbench takes RESULTS; 0 were given"),
    (["frechet", "a"], r"frechet takes REAL FAKE; 1 were given"),
    (["frechet", "a", "b"], r"give --weights .* or --vae .*, one of them"),
    (["vbench", "none.json"], r"none\.json does not exist"),
    (["clips", "none"], r"none\.json is missing, which pyramid-generate"),
    (["flicker", "none"], "none does not exist; give a folder"),
    (["evalcrafter", "none"], "none is missing; EvalCrafter's eval_from"),
    (["frechet", "none", "b", "weights=w.pth"], "none does not exist"),
    (["frechet", "none", "b", "vae=v"], "b does not exist"),
  ],
)
def test_what_cannot_be_scored_is_told(arguments, message):
  refused(message, *score(*arguments), files=True)
