"""Result files are read strictly; clips that are not whole are named."""

import json
import shutil

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
    (
      {"a.json": {"scenes": 0.4}},
      r"a\.json: 'scenes' is no dimension .*mean scene",
    ),
    ({"a.json": {"scene": "high"}}, "scene is 'high', not a finite number"),
    ({"a.json": {"scene": []}}, r"scene is \[\], not a finite number"),
    (
      {"a.json": {"scene": [float("nan")]}},
      r"a\.json: scene is nan, not a fin",
    ),
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
  with pytest.raises(ConfigError, match=r"eval_from_metrics\.py writes it"):
    results.read_evalcrafter(tmp_path / "none")


@pytest.mark.parametrize(
  "name, text, message",
  [
    ("m.json", '{"IS": NaN}', "IS is nan, not a finite number"),
    ("m.json", '{"IS": -Infinity}', "IS is -inf, not a finite number"),
    ("m.json", '{"IS": 1%s}' % ("0" * 400), "not a finite number"),
    ("m.json", '{"IS": "18.49"}', "IS is '18.49', not a finite number"),
    ("m.json", '{"IS": true}', "IS is True, not a finite number"),
    ("m.json", '{"IS": null}', "IS is None, not a finite number"),
    ("m.json", "[18.49]", "must hold {metric: value}"),
    ("m.json", '{"IS": 18', "is not whole JSON"),
    ("m.txt", "Metrics: {'IS': nan}", "IS is 'nan', not a finite number"),
    ("m.txt", "Metrics: {'IS': -inf}", "IS is '-inf', not a finite number"),
    ("m.txt", "Metrics: {'IS': 'high'}", "IS is 'high', not a finite number"),
    ("m.txt", "Metrics: {'IS' 18.49}", '"Metrics: .*18.49}" cannot be read'),
    ("m.txt", "Metrics: {'IS': f(1.0)}", 'f.1.0.}" cannot be read'),
    ("m.txt", "Metrics: {{1: 2}: 3}", "cannot be read"),
    ("m.txt", "Metrics: {18.49}", "must hold {metric: value}"),
    ("m.txt", "Metrics: {'IS': 18", 'has no line "Metrics'),
    ("m.txt", "2024", 'has no line "Metrics'),
  ],
)
def test_metrics_that_are_no_finite_numbers_are_told(
  tmp_path, name, text, message
):
  (tmp_path / name).write_text(text)
  with pytest.raises(ConfigError, match=rf"{name}.*{message}") as error:
    results.read_evalcrafter(tmp_path / name)
  assert "\n" not in str(error.value)


def test_a_dimension_by_two_names_in_a_file_is_told(tmp_path):
  write(tmp_path / "r.json", {"Scene": 0.4, "scene": 0.5})
  with pytest.raises(ConfigError, match=r"r\.json has scene twice"):
    results.read_vbench(tmp_path / "r.json")


def test_clips_that_are_missing_damaged_or_otherwise_made_are_named(
  tmp_path, monkeypatch
):
  (tmp_path / "p.txt").write_text("a\n")
  out = tmp_path / "out"
  clips = benchmark.make_clips("vbench", tmp_path / "p.txt", out)
  sizes = dict(seed=0, fps=24.0, frames=9, height=16, width=32)
  benchmark.keep_manifest(out, "vbench", clips, sizes)
  frames = np.zeros((9, 16, 32, 3), np.uint8)
  for clip in clips:
    export.write_clip(clip.path, frames, 24)
  whole = results.check_clips(out)
  assert whole == results.Check("vbench", 1, 5, [], [], [], [], 9)
  assert whole.complete
  monkeypatch.chdir(out)
  assert results.check_clips(".") == whole
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
  assert why.endswith("; run the same pyramid-generate again")
  like = (
    "9 frames of 16 x 32 at 24 a second; remove it and run the same "
    "pyramid-generate again"
  )
  assert short == (
    "out/a-2.mp4", f"7 frames of 16 x 32 at 24 a second, not {like}"
  )  # fmt: skip
  assert slow == (
    "out/a-3.mp4", f"9 frames of 16 x 32 at 8 a second, not {like}"
  )  # fmt: skip
  assert found.foreign == [str(out / "notes.txt")]
  with pytest.raises(ConfigError, match=r"none\.json is missing, which pyram"):
    results.check_clips(tmp_path / "none")
  for other in (
    {"scene": 0.4},
    {
      "benchmark": "vbench",
      "clips": 3,
    },  # what pyramid-score clips --out writes
    {"benchmark": "none", **sizes, "clips": []},
    {"benchmark": "vbench", "clips": []},
    {"benchmark": ["vbench"], **sizes, "clips": []},
    {"benchmark": "vbench", **sizes, "clips": [{"file": 3, "prompt": "a"}]},
  ):
    write(tmp_path / "other.json", other)
    with pytest.raises(ConfigError, match=r"other\.json is not what pyramid-g"):
      results.check_clips(tmp_path / "other")
  (tmp_path / "other.json").write_text("[" * 100_000)
  with pytest.raises(ConfigError, match=r"other\.json is not whole"):
    results.check_clips(tmp_path / "other")


def test_clips_whose_names_a_disk_could_not_tell_apart_are_moved_together(
  tmp_path, monkeypatch
):
  (tmp_path / "p.txt").write_text("a cat\nA cat\n")
  monkeypatch.setattr(benchmark, "folds_case", lambda _: True)
  out = tmp_path / "out"
  clips = benchmark.make_clips("vbench", tmp_path / "p.txt", out)
  sizes = dict(seed=0, fps=24.0, frames=9, height=16, width=32)
  benchmark.keep_manifest(out, "vbench", clips, sizes)
  for clip in clips:
    export.write_clip(clip.path, np.zeros((9, 16, 32, 3), np.uint8), 24)
  found = results.check_clips(out)
  assert found.apart == [f"out-2/A cat-{i}.mp4" for i in range(5)]
  assert not found.complete and "apart    out-2/A cat-0.mp4: one f" in str(
    found
  )
  assert not (found.missing or found.wrong or found.foreign)
  with pytest.raises(ConfigError, match=r"-0\.mp4 and 4 others lie apart"):
    results.require_whole(out)
  for file in (tmp_path / "out-2").iterdir():
    file.rename(out / file.name)
  found = results.check_clips(out)
  assert found.complete and not found.apart
  (out / "A cat-3.mp4").unlink()
  assert results.check_clips(out).missing == ["out-2/A cat-3.mp4"]


def test_a_benchmarks_folder_that_lacks_clips_is_not_measured(tmp_path):
  (tmp_path / "temporal_flickering.txt").write_text("a\n")
  out = tmp_path / "out"
  clips = benchmark.make_clips(
    "vbench", tmp_path / "temporal_flickering.txt", out
  )
  sizes = dict(seed=0, fps=24.0, frames=3, height=16, width=16)
  benchmark.keep_manifest(out, "vbench", clips, sizes)
  for clip in clips[:2]:
    export.write_clip(clip.path, np.zeros((3, 16, 16, 3), np.uint8), 24)
  message = r"2 of 25 clips that .*out\.json lists are there; .* out/a-2\.mp4"
  with pytest.raises(ConfigError, match=message):
    results.measure_flickering(out)
  with pytest.raises(ConfigError, match=message):
    results.require_whole(out)
  results.require_whole(tmp_path / "unknown")  # of it nothing is listed


@pytest.mark.parametrize(
  "found, last",
  [
    (("vbench", 944, 6220, 121), "vbench: the full set"),
    (("evalcrafter", 700, 700, 121), "evalcrafter: the full set"),
    (("coco", 3000, 3000, 1), "coco: the full set"),
    (
      ("vbench", 2, 10, 121),
      "vbench: a part: 2 of 944 prompts, 10 of 6,220 clips; ",
    ),
    # no prompt of temporal flickering has its 25 samples
    (("vbench", 944, 4720, 121), "vbench: a part: 944 of 944 prompts, 4,720 "),
    (
      ("vbench", 944, 6220, 9),
      "vbench: a part: 944 of 944 prompts, 6,220 of 6,220 clips, of 9 frames "
      "where published ones have 121; ",
    ),
  ],
)
def test_a_part_of_a_benchmark_is_told_from_the_full_set(found, last):
  *counts, frames = found
  check = results.Check(*counts, [], [], [], [], frames)
  assert check.complete and str(check).splitlines()[-1].startswith(last)
  assert check.full == last.endswith("the full set")


def flickering(tmp_path, lengths=(3, 3, 3), fps=(24, 24, 24)):
  """A folder with clips of three prompts; every second frame is brighter."""
  for i, (frames, rate) in enumerate(zip(lengths, fps, strict=True)):
    video = np.full((frames, 16, 16, 3), 60, np.uint8)
    video[1::2] += 51 * i
    export.write_clip(tmp_path / f"out/{i}-0.mp4", video, rate)
  return tmp_path / "out"


def test_flickering_is_that_of_the_prompts_with_25_samples(
  tmp_path, monkeypatch
):
  out = flickering(tmp_path)
  measured = lambda: results.measure_flickering(out)["temporal_flickering"]
  mean, each = measured()
  assert len(each) == 3
  # steps of 0, 51 and 102 of 255, as far as H.264 keeps gray
  np.testing.assert_allclose(mean, 0.8, atol=0.01)
  entries = [("0", "scene"), ("1", "temporal_flickering"), ("2", "color")]
  write(
    tmp_path / "info.json",
    [{"prompt_en": p, "dimension": [d]} for p, d in entries],
  )
  clips = benchmark.make_clips("vbench", tmp_path / "info.json", out)
  manifest = lambda some: write(
    tmp_path / "out.json",
    {
      "benchmark": "vbench",
      **dict(fps=24.0, frames=3, height=16, width=16),
      "clips": [
        {"file": f"out/{c.path.name}", "prompt": c.prompt} for c in some
      ],
    },
  )
  manifest(clips)
  for i in range(1, 25):
    shutil.copy(out / "1-0.mp4", out / f"1-{i}.mp4")
  mean, each = measured()
  names = {f"{out}/1-{i}.mp4" for i in range(25)}
  assert {clip["video_path"] for clip in each} == names
  np.testing.assert_allclose(mean, 0.8, atol=0.01)
  monkeypatch.chdir(out)
  assert len(results.measure_flickering(".")["temporal_flickering"][1]) == 25
  manifest(clips[:5])
  with pytest.raises(ConfigError, match=r"no prompt with 25 samples; those of"):
    measured()


@pytest.mark.parametrize(
  "changed, message",
  [
    ({"lengths": (3, 3, 5)}, r"2-0\.mp4 has 5 frames .*first clip 3 frames of"),
    (
      {"fps": (24, 8, 24)},
      r"1-0\.mp4 has .* at 8 a second, the first .* at 24",
    ),
    ({"lengths": (1, 1, 1)}, r"0-0\.mp4: a clip of 1 frame cannot flicker"),
  ],
)
def test_clips_whose_flickering_is_no_mean_are_told(tmp_path, changed, message):
  with pytest.raises(ConfigError, match=message):
    results.measure_flickering(flickering(tmp_path, **changed))
