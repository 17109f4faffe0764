"""What a benchmark's clips are called, where they go, and what is kept."""

import json
import logging

import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.generate import benchmark
from pyramid_jax.generate.benchmark import make_clips, read_prompts


def full_info(path, entries):
  path.write_text(
    json.dumps([{"prompt_en": p, "dimension": d} for p, d in entries])
  )
  return path


def names(clips):
  return [clip.path.name for clip in clips]


def test_a_set_as_large_as_vbench_has_all_its_clips(tmp_path):
  flickering = [(f"still {i}", ["temporal_flickering"]) for i in range(75)]
  others = [(f"moving {i}", ["color", "scene"]) for i in range(869)]
  again = [("moving 3", ["overall_consistency"]), ("moving 7", ["scene"])]
  file = full_info(tmp_path / "info.json", flickering + others + again)
  clips, kind = make_clips("vbench", file, tmp_path / "out"), (944, 6220)
  full = benchmark.BENCHMARKS["vbench"]
  assert (full.prompts, full.clips) == kind
  assert (len({c.prompt for c in clips}), len(clips)) == kind
  assert len({c.path for c in clips}) == 6220
  assert [c.number for c in clips] == list(range(6220))
  assert names(clips)[24:27] == ["still 0-24.mp4", "still 1-0.mp4",
                                 "still 1-1.mp4"]  # fmt: skip
  assert names(clips)[-1] == "moving 868-4.mp4"


def test_a_prompt_of_several_entries_has_the_dimensions_of_all(tmp_path):
  entries = [("a", "color"), ("b", ["scene"]), ("a", ["temporal_flickering"])]
  file = full_info(tmp_path / "info.json", entries)
  assert read_prompts(file) == {"a": 25, "b": 5}


@pytest.mark.parametrize(
  "name", ["temporal flickering", " Temporal Flickering", "temporal_flickering"]
)
def test_a_dimension_may_be_written_with_blanks_and_capitals(tmp_path, name):
  file = full_info(tmp_path / "info.json", [("a", ["scene", name])])
  assert read_prompts(file) == {"a": 25}


@pytest.mark.parametrize(
  "name, samples", [("all_dimension.txt", 5), ("temporal_flickering.txt", 25)]
)
def test_text_files_have_a_prompt_a_line(tmp_path, name, samples):
  (tmp_path / name).write_text("a cat\n\n  a dog \na cat\n", encoding="utf-8")
  found = read_prompts(tmp_path / name)
  assert found == {"a cat": samples, "a dog": samples}
  marked = (tmp_path / name).read_text()
  (tmp_path / name).write_text(marked, encoding="utf-8-sig")
  assert read_prompts(tmp_path / name) == found


@pytest.mark.parametrize(
  "name, ending", [("evalcrafter", "mp4"), ("coco", "png")]
)
def test_numbered_files_keep_every_line(tmp_path, name, ending):
  (tmp_path / "prompts.txt").write_text("a cat\na dog\na cat\n")
  clips = make_clips(name, tmp_path / "prompts.txt", tmp_path / "out")
  assert names(clips) == [f"000{i}.{ending}" for i in range(3)]
  assert [c.prompt for c in clips] == ["a cat", "a dog", "a cat"]


@pytest.mark.parametrize("folds, folders", [(True, 2), (False, 1)])
def test_names_that_the_disk_cannot_tell_apart_do_not_meet(
  tmp_path, monkeypatch, folds, folders
):
  monkeypatch.setattr(benchmark, "folds_case", lambda folder: folds)
  text = "a fantasy\nA fantasy\nAn é\nAn e\u0301\n"  # two ways to write é
  (tmp_path / "p.txt").write_text(text, encoding="utf-8")
  clips = make_clips("vbench", tmp_path / "p.txt", tmp_path / "out")
  assert len({c.path.parent for c in clips}) == folders
  key = lambda c: (c.path.parent, c.path.name.casefold() if folds else c.path)
  assert len({key(c) for c in clips}) == len(clips) == 20
  assert clips[5].path.name == "A fantasy-0.mp4"
  assert clips[5].path.parent.name == ("out-2" if folds else "out")


def test_this_disk_tells_whether_it_folds_case(tmp_path):
  (tmp_path / "probe").touch()
  assert benchmark.folds_case(tmp_path) == (tmp_path / "PROBE").exists()
  assert [p.name for p in tmp_path.iterdir()] == ["probe"]


@pytest.mark.parametrize(
  "prompt, stem",
  [
    ("a/b", "a_b"),
    ("a\tb\0", "a_b_"),
    ("..", "__"),
    ("ends with a dot.", "ends with a dot."),
    ("Ω" * 110, "Ω" * 110),
  ],
)
def test_what_no_name_may_have_is_replaced(tmp_path, prompt, stem):
  found = benchmark.file_stem(prompt)
  assert found == stem
  (tmp_path / f".{found}.partial.mp4").touch()  # what the writer makes first


def test_long_prompts_keep_distinct_names_that_fit(tmp_path):
  prompts = [f"{'long ' * 80}{i}" for i in range(2)] + ["Ω" * 200]
  (tmp_path / "p.txt").write_text("\n".join(prompts), encoding="utf-8")
  clips = make_clips("vbench", tmp_path / "p.txt", tmp_path / "out")
  assert len({c.path for c in clips}) == 15
  for clip in clips:
    clip.path.with_name(f".{clip.path.name}.partial.mp4").touch()


def test_a_changed_name_is_told(tmp_path, caplog):
  (tmp_path / "p.txt").write_text("a/b\n")
  with caplog.at_level(logging.WARNING):
    make_clips("vbench", tmp_path / "p.txt", tmp_path / "out")
  assert "VBench does not look for them" in caplog.text


def test_a_folder_is_continued_with_the_same_prompts_and_settings(tmp_path):
  (tmp_path / "p.txt").write_text("a cat\n")
  out = tmp_path / "out"
  clips = make_clips("vbench", tmp_path / "p.txt", out)
  settings = dict(seed=3, fps=24.0, frames=121, height=16, width=16)
  for _ in range(2):
    benchmark.keep_manifest(out, "vbench", clips, settings)
  kept = benchmark.read_manifest(out)
  assert kept["clips"][4] == {
    "file": "out/a cat-4.mp4", "prompt": "a cat", "sample": 4, "seed": [3, 4]
  }  # fmt: skip
  assert len({tuple(clip["seed"]) for clip in kept["clips"]}) == len(clips)
  # VBench takes the ending of the first file in the folder for that of all
  assert not list(out.iterdir())
  with pytest.raises(ConfigError, match=r"\(seed 3, now 4\); go on as before"):
    benchmark.keep_manifest(out, "vbench", clips, {**settings, "seed": 4})
  newer = {**settings, "given_guidance": 0.0}  # a default without name before
  benchmark.keep_manifest(out, "vbench", clips, newer)
  with pytest.raises(ConfigError, match=r"given_guidance 0\.0, now 4\.0"):
    newer["given_guidance"] = 4.0
    benchmark.keep_manifest(out, "vbench", clips, newer)
  with pytest.raises(ConfigError, match=r"begun otherwise \(other prompts\)"):
    benchmark.keep_manifest(out, "vbench", clips[1:], settings)
  benchmark.manifest_path(out).unlink()
  clips[2].path.write_bytes(b"made with something")
  with pytest.raises(ConfigError, match=r"a cat-2\.mp4 is there, but not "):
    benchmark.keep_manifest(out, "vbench", clips, settings)
  benchmark.manifest_path(out).write_text('{"clips": [')
  with pytest.raises(ConfigError, match=r"out\.json is not whole"):
    benchmark.read_manifest(out)


@pytest.mark.parametrize(
  "change",
  [
    {"clips": []}, {"clips": [{"file": "a.mp4"}]}, {"fps": "24"},
    {"fps": float("nan")}, {"fps": float("inf")}, {"fps": 0},
    {"frames": "121"}, {"frames": True}, {"frames": 1.5}, {"height": None},
    {"width": -16}, {"benchmark": "other"},
  ],
)  # fmt: skip
def test_a_file_without_clips_or_numbers_is_none_of_a_benchmark(
  tmp_path, change
):
  (tmp_path / "p.txt").write_text("a cat\n")
  out = tmp_path / "out"
  clips = make_clips("vbench", tmp_path / "p.txt", out)
  settings = dict(seed=3, fps=24.0, frames=121, height=16, width=16)
  benchmark.keep_manifest(out, "vbench", clips, settings)
  path = benchmark.manifest_path(out)
  made = benchmark.read_manifest(out)
  path.write_text(json.dumps({**made, **change}))
  with pytest.raises(ConfigError, match="keep it elsewhere"):
    benchmark.read_manifest(out)


def test_a_benchmark_has_true_24_frames_a_second():
  benchmark.check_fps(24.0, "run")
  for fps in (8.0, 23.976, 25.0):
    message = rf"run makes {fps:g} frames a second; a benchmark's .* have 24"
    with pytest.raises(ConfigError, match=message):
      benchmark.check_fps(fps, "run")


@pytest.mark.parametrize("name", ["coco", "evalcrafter"])
@pytest.mark.parametrize("ending", [".json", ".JSON", ".jsonl"])
def test_json_is_not_taken_for_a_prompt_a_line(tmp_path, name, ending):
  captions = full_info(tmp_path / f"captions{ending}", [("a", "color")])
  with pytest.raises(ConfigError, match=r"is JSON; text .* a prompt a line"):
    make_clips(name, captions, tmp_path / "out")


def test_prompts_that_cannot_be_read_are_told(tmp_path):
  (tmp_path / "empty.txt").write_text("\n \n")
  (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
  (tmp_path / "other.json").write_text('[{"prompt": "a"}]')
  (tmp_path / "half.json").write_text('[{"prompt_en": "a"')
  (tmp_path / "none.json").write_text("[]")
  (tmp_path / "deep.json").write_text("[" * 100_000)
  full_info(tmp_path / "null.json", [(None, ["color"])])
  full_info(tmp_path / "number.json", [("a", 3)])
  full_info(tmp_path / "of null.json", [("a", [None])])
  full_info(tmp_path / "static.json", [("a", ["temporal_flicker"])])
  for name, message in (
    ("missing.txt", "is not a file"),
    ("empty.txt", "has no prompts"),
    ("bytes.txt", "is not text"),
    ("other.json", r"not like VBench_full_info\.json.*prompt_en"),
    ("half.json", "not like VBench_full_info"),
    ("none.json", "has no prompts"),
    ("null.json", r"null\.json is not like .*prompt_en is None, not text"),
    ("number.json", r"dimension is 3, not text or a list of texts"),
    ("of null.json", r"dimension is \[None\], not text or a list"),
    (
      "static.json",
      r"static\.json: 'temporal_flicker' is no dimension of "
      "VBench; did you mean temporal_flickering",
    ),
    ("deep.json", "not like VBench_full_info"),
  ):
    with pytest.raises(ConfigError, match=message):
      make_clips("vbench", tmp_path / name, tmp_path / "out")
  with pytest.raises(ConfigError, match=r"out\.mp4 must be a folder"):
    make_clips("vbench", tmp_path / "empty.txt", tmp_path / "out.mp4")
