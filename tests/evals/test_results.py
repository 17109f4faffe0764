"""Result files are read strictly; clips that are not whole are named."""

import json

import numpy as np
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.evals import results
from pyramid_jax.generate import benchmark, export

RAW = {"scene": 0.432, "color": 0.8287}


def write(path, content):
  path.write_text(json.dumps(content))
  return path


def test_files_of_vbench_and_plain_ones_say_the_same(tmp_path):
  own = {k: [v, [{"video_path": "a-0.mp4"}]] for k, v in RAW.items()}
  plain = {"Scene": 43.2, "color": 82.87}
  for content in (own, RAW, plain):
    found = results.read_vbench(write(tmp_path / "r.json", content))
    assert found.keys() == RAW.keys()
    np.testing.assert_allclose([*found.values()], [*RAW.values()])


def test_a_folder_is_read_file_by_file(tmp_path):
  write(tmp_path / "a_eval_results.json", {"scene": [0.432, []]})
  write(tmp_path / "b_eval_results.json", {"color": [0.8287, []]})
  write(tmp_path / "b_full_info.json", [{"prompt_en": "a"}])
  assert results.read_vbench(tmp_path) == RAW


@pytest.mark.parametrize(
  "files, message",
  [
    ({}, r"has no results of VBench; run its evaluate\.py"),
    ({"a.json": [1]}, "has no results of VBench"),
    ({"a.json": {"scenes": 0.4}}, "'scenes' is no dimension .*mean scene"),
    ({"a.json": {"scene": "high"}}, "scene is 'high', not a number"),
    ({"a.json": {"scene": []}}, r"scene is \[\], not a number"),
    ({"a.json": {"scene": 43.2, "color": 0.8}}, r"mixes .*\(color 0\.8\)"),
    (
      {"a.json": {"scene": 0.4}, "b.json": {"scene": 0.5}},
      r"scene is 0\.4 in .*a\.json and 0\.5 in .*b\.json; keep one",
    ),
  ],
)
def test_results_that_cannot_be_used_are_told(tmp_path, files, message):
  for name, content in files.items():
    write(tmp_path / name, content)
  with pytest.raises(ConfigError, match=message):
    results.read_vbench(tmp_path)


def test_a_file_that_is_missing_or_half_written_is_told(tmp_path):
  with pytest.raises(ConfigError, match=r"none\.json does not exist"):
    results.read_vbench(tmp_path / "none.json")
  (tmp_path / "half.json").write_text('{"scene": [0.4, [{"video')
  with pytest.raises(ConfigError, match=r"half\.json is not whole JSON"):
    results.read_vbench(tmp_path / "half.json")


def test_what_evalcrafter_prints_is_read(tmp_path):
  line = "2024-01-01 00:00:00 Metrics: {'VQA_A': 86.09, 'IS': 18.49}\n"
  (tmp_path / "final_result.txt").write_text(line + "2024 Results: ...\n")
  expected = {"VQA_A": 86.09, "IS": 18.49}
  assert results.read_evalcrafter(tmp_path) == expected
  file = write(tmp_path / "m.json", expected)
  assert results.read_evalcrafter(file) == expected
  (tmp_path / "final_result.txt").write_text("Metrics: {'IS': nan}")
  with pytest.raises(ConfigError, match="every metric must be a number"):
    results.read_evalcrafter(tmp_path)
  (tmp_path / "final_result.txt").write_text("2024")
  with pytest.raises(ConfigError, match='no line "Metrics'):
    results.read_evalcrafter(tmp_path)
  with pytest.raises(ConfigError, match=r"eval_from_metrics\.py writes it"):
    results.read_evalcrafter(tmp_path / "none")


def test_clips_that_are_missing_damaged_or_otherwise_made_are_named(tmp_path):
  (tmp_path / "p.txt").write_text("a\n")
  out = tmp_path / "out"
  clips = benchmark.make_clips("vbench", tmp_path / "p.txt", out)
  sizes = dict(seed=0, fps=24.0, frames=9, height=16, width=32)
  benchmark.keep_manifest(out, "vbench", clips, sizes)
  frames = np.zeros((9, 16, 32, 3), np.uint8)
  for clip in clips:
    export.write_clip(clip.path, frames, 24)
  assert results.check_clips(out) == results.Check(5, [], [], [])
  clips[0].path.unlink()
  whole = clips[1].path.read_bytes()
  clips[1].path.write_bytes(whole[: len(whole) // 2])
  export.write_clip(clips[2].path, frames[:7], 24)
  export.write_clip(clips[3].path, frames, 8)
  (out / "notes.txt").touch()
  found = results.check_clips(out)
  assert not found.complete and found.clips == 5
  assert found.missing == ["out/a-0.mp4"]
  (damaged, why), short, slow = found.wrong
  assert damaged == "out/a-1.mp4" and why.startswith("damaged: ")
  like = "9 frames of 16 x 32 at 24 a second"
  assert short == (
    "out/a-2.mp4", f"7 frames of 16 x 32 at 24 a second, not {like}"
  )  # fmt: skip
  assert slow == (
    "out/a-3.mp4", f"9 frames of 16 x 32 at 8 a second, not {like}"
  )  # fmt: skip
  assert found.foreign == [str(out / "notes.txt")]
  with pytest.raises(ConfigError, match=r"none\.json is missing, which pyram"):
    results.check_clips(tmp_path / "none")
