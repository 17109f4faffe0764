"""Clips are made once, read from files, and refused where they must be."""

import json
import shutil
import types

import numpy as np
import PIL.Image
import pytest

from pyramid_jax.config import ConfigError, GenerateConfig
from pyramid_jax.data import shapes, workers
from pyramid_jax.data.shapes_store import ShapesConfig, write
from pyramid_jax.evals import shapes_report, shapes_run
from pyramid_jax.evals.shapes_files import score_files
from pyramid_jax.evals.shapes_run import Question, begin
from pyramid_jax.evals.shapes_score import Seen, summary
from pyramid_jax.generate import clips, export
from tests.commands import refused, run

HELDOUT = [shapes.render(i, 0, 9, split="heldout") for i in range(5)]
QUESTIONS = [Question(clip.caption, clip.video) for clip in HELDOUT]
OPTIONS = GenerateConfig(height=64, width=64, frames=9)


def save(path, video, fps=24, **metadata):
  with export.mp4_writer(path, fps, metadata, lossless=True) as append:
    append(video)
  return path


@pytest.fixture(scope="module")
def true_clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  for i, clip in enumerate(HELDOUT):
    save(folder / f"{i}.mp4", clip.video, prompt=clip.caption, frames=9)
  return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shapes") / "data"
  return write(folder, ShapesConfig(clips=6, heldout=2, frames=9))


def test_a_lossless_file_holds_the_very_pixels(tmp_path):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (3, 31, 33, 3), dtype=np.uint8)  # odd sizes too
  path = save(tmp_path / "a.mp4", noise, prompt="noise")
  frames, metadata = export.read_mp4(path)
  np.testing.assert_array_equal(frames, noise)
  assert metadata == {"prompt": "noise"}


def test_heldout_clips_beyond_the_stored_ones_are_drawn_like_them(dataset):
  opened = shapes_run.Dataset(dataset)
  found = opened.heldout(5)
  assert [q.prompt for q in found] == [c.caption for c in HELDOUT]
  for q, clip in zip(found, HELDOUT, strict=True):
    np.testing.assert_array_equal(q.truth, clip.video)
  assert opened.frames == 9
  assert opened.seen.captions == {shapes.render(i, 0, 9).caption
                                  for i in range(6)}  # fmt: skip


def test_only_missing_clips_are_generated(tmp_path, monkeypatch):
  made = []

  def generate(pipeline, requests, *, seed, lossless, batch, **options):
    assert lossless and (seed, batch) == (3, 2)
    made.append([request.number for request in requests])
    for request in requests:
      assert request.given is None
      save(request.path, HELDOUT[0].video, prompt=request.prompt)

  monkeypatch.setattr(clips, "generate_clips", generate)
  pipeline = types.SimpleNamespace(options=lambda **changes: OPTIONS)
  again = lambda: shapes_run.generate_missing(
    pipeline, QUESTIONS, tmp_path, seed=3, batch=2
  )
  paths = again()
  assert made == [[0, 1], [2, 3], [4]]
  made.clear()
  assert again() == paths and made == []
  paths[3].unlink()
  again()
  assert made == [[3]]


def test_only_clips_that_are_not_whole_are_reconstructed(tmp_path):
  made = []

  def reconstruct(truth, ids, batch):
    made.extend(ids)
    return truth

  vae = types.SimpleNamespace(reconstruct=reconstruct)
  again = lambda: shapes_run.reconstruct_missing(
    vae, QUESTIONS, tmp_path, batch=2
  )
  paths = again()
  assert made == [f"{i:05d}" for i in range(5)]
  made.clear()
  paths[1].write_bytes(b"")
  paths[4].write_bytes(paths[4].read_bytes()[:-200])
  assert again() == paths and made == ["00001", "00004"]
  np.testing.assert_array_equal(export.read_mp4(paths[4])[0], HELDOUT[4].video)


@pytest.mark.parametrize(
  "given, questions, options, message",
  [
    (8, QUESTIONS, {}, r"given 8 is not 8 n \+ 1 below the clip's 9 frames"),
    (9, QUESTIONS, {}, r"given 9 is not 8 n \+ 1 below"),
    (17, QUESTIONS, {"frames": 33}, r"given 17 is more than a clip has: 9"),
    (1, [Question("x")], {}, r"have no true clips to go on from"),
    (1, QUESTIONS, {"height": 32}, r"frames of 64 x 64, asked are 32 x 64"),
    (0, QUESTIONS, {"frames": 1}, r"cannot be read from 1 frames after the 0"),
    (0, QUESTIONS, {"fps": 8}, r"the model has 8 frames a second; captions"),
  ],
)
def test_what_cannot_be_gone_on_from_or_read_is_told_before_it_is_made(
  tmp_path, given, questions, options, message
):
  settings = GenerateConfig(
    **{"height": 64, "width": 64, "frames": 9, **options}
  )
  pipeline = types.SimpleNamespace(options=lambda **changes: settings)
  with pytest.raises(ConfigError, match=message):
    shapes_run.generate_missing(
      pipeline, questions, tmp_path, seed=0, batch=2, given=given
    )


def test_clips_of_other_settings_are_not_mixed(tmp_path):
  begin(tmp_path, {"guidance": 4.0, "steps": (8, 8)})
  begin(tmp_path, {"guidance": 4.0, "steps": (8, 8)})
  with pytest.raises(ConfigError, match=r"guidance: 4\.0 -> 5\.0"):
    begin(tmp_path, {"guidance": 5.0, "steps": (8, 8)})
  newer = {"guidance": 4.0, "steps": (8, 8), "given_guidance": 0.0}
  begin(tmp_path, newer)  # the default, which had no name before
  with pytest.raises(ConfigError, match=r"given_guidance: 0\.0 -> 4\.0"):
    begin(tmp_path, {**newer, "given_guidance": 4.0})
  (tmp_path / "settings.json").unlink()
  save(tmp_path / "clips" / "0.mp4", HELDOUT[0].video)
  with pytest.raises(ConfigError, match="clips without settings.json"):
    begin(tmp_path, {})


def test_files_that_cannot_be_scored_are_told(tmp_path):
  clip, path = HELDOUT[0], tmp_path / "a.mp4"
  one = lambda **more: score_files([path], Seen(), 9, **more)
  save(path, clip.video)
  with pytest.raises(ConfigError, match=r"a\.mp4 does not say its prompt"):
    one()
  save(path, clip.video, prompt="a cat")
  with pytest.raises(ConfigError, match=r"a\.mp4: 'a cat' is no caption of"):
    one()
  save(path, clip.video, prompt=clip.caption, frames=17)
  with pytest.raises(ConfigError, match=r"has 9 frames, it should have 17"):
    one()
  save(path, clip.video[:1], prompt=clip.caption, frames=1)
  with pytest.raises(ConfigError, match=r"from 1 frames after the 0 given"):
    one()
  save(path, clip.video, 8, prompt=clip.caption, frames=9)
  with pytest.raises(ConfigError, match=r"a\.mp4 has 8 frames a second; .* 24"):
    one()
  save(path, clip.video[:7], prompt=clip.caption, frames=7)
  with pytest.raises(ConfigError, match=r"has 7 frames, fewer than the 9 that"):
    one()
  # a run's own clips may be shorter: its settings say so
  assert one(questions=[Question(clip.caption)])[0]["frames"] == 7
  save(path, clip.video, prompt=clip.caption, frames=9)
  with pytest.raises(ConfigError, match=r"a\.mp4 shows .*choose another --out"):
    one(questions=[Question(HELDOUT[1].caption)])
  path.write_bytes(path.read_bytes()[:-2000])
  with pytest.raises(ConfigError, match=r"a\.mp4 cannot be read as a video"):
    one()
  with pytest.raises(ConfigError, match="no mp4 files"):
    score_files([], Seen(), 9)


def test_readings_are_the_same_whatever_the_number_of_processes(tmp_path):
  count = 2 * workers.LEAST
  paths = [tmp_path / f"{i:02d}.mp4" for i in range(count)]
  for path in paths:
    clip = HELDOUT[int(path.stem) % len(HELDOUT)]
    save(path, clip.video, prompt=clip.caption, frames=9)
  score = lambda **more: score_files(paths, Seen(), 9, **more)
  one, two = score(), score(processes=2)
  assert [record["clip"] for record in two] == [path.name for path in paths]
  # as text, in which what is not known equals itself
  assert json.dumps(one) == json.dumps(two)


def test_continuations_tell_how_much_they_change_what_was_given(dataset):
  opened = shapes_run.Dataset(dataset)
  lines = lambda given: shapes_report.markdown(
    summary(shapes_run.score_truth(opened, 3, given)), 3
  ).splitlines()
  for given in (1, 5):
    table = lines(given)
    kept = [x for x in table if x.startswith("| given objects kept | 100.0%")]
    changes = [x for x in table if "change from given" in x]
    assert len(kept) == 1 and len(changes) == 2
    assert all(float(line.split("|")[2]) < 1 for line in changes)
  assert not [line for line in lines(0) if "given" in line]


def test_files_that_were_not_finished_are_no_clips(
  tmp_path, true_clips, dataset
):
  for path in true_clips.iterdir():
    shutil.copy(path, tmp_path / path.name)
  (tmp_path / ".9.mp4.partial.mp4").write_bytes(b"half")
  found = shapes_run.list_clips(tmp_path)
  assert [path.name for path in found] == [f"{i}.mp4" for i in range(5)]
  result = run("evaluate", f"clips={tmp_path}", f"shapes={dataset}",
               f"out={tmp_path}/out")  # fmt: skip
  assert result.code == 0, result.err
  (tmp_path / "new/clips").mkdir(parents=True)
  (tmp_path / "new/clips/.0.mp4.partial.mp4").write_bytes(b"half")
  begin(tmp_path / "new", {})


def test_a_misread_clip_is_named_beside_what_was_read(tmp_path):
  record = shapes_run.score(HELDOUT[0].caption, HELDOUT[0].video, 9)
  assert shapes_report.verdict(record) == "HIT"
  other = "red" if "red" not in HELDOUT[0].caption else "yellow"
  color = shapes.parse_caption(HELDOUT[0].caption)["objects"][0]["color"]
  wrong = HELDOUT[0].caption.replace(f" {color} ", f" {other} ")
  record = shapes_run.score(wrong, HELDOUT[0].video, 9)
  assert shapes_report.verdict(record) == f"MISS (color {color})"


def test_results_are_json_where_nothing_could_be_measured(tmp_path):
  video = np.zeros((9, 64, 64, 3), np.uint8)
  video[:, 30:34, 8:56] = shapes.COLORS["red"]  # a bar: no shape, no radius
  record = shapes_run.score(HELDOUT[0].caption, video, 9)
  assert np.isnan(record["read"][0]["things"][0]["radius"])
  empty = shapes_run.score(HELDOUT[0].caption, np.zeros_like(video), 9)
  records = [{"combination": "", **r} for r in (record, empty)]
  shapes_report.write_results(tmp_path, {}, records)

  def refuse(name):
    raise AssertionError(f"{name} is no JSON")

  text = (tmp_path / "results.json").read_text()
  found = json.loads(text, parse_constant=refuse)
  assert found["clips"][0]["read"][0]["things"][0]["radius"] is None


def test_the_sheet_shows_hits_and_misses_alike():
  right = [{"all_correct": i % 5 > 0} for i in range(20)]
  assert shapes_report.choose(right, 8) == [1, 2, 3, 4, 0, 5, 10, 15]
  assert shapes_report.choose(right[1:5], 8) == [0, 1, 2, 3]


def test_the_command_scores_a_folder(tmp_path, true_clips, dataset):
  result = run("evaluate", f"clips={true_clips}", f"shapes={dataset}",
               f"out={tmp_path}")  # fmt: skip
  assert result.code == 0, result.err
  assert "| all correct | 100.0% (56.6% to 100.0%) |" in result.out
  assert "| all but motion | 100.0% (56.6% to 100.0%) |" in result.out
  found = json.loads((tmp_path / "results.json").read_text())
  assert [c["prompt"] for c in found["clips"]] == [c.caption for c in HELDOUT]
  assert found["summary"]["all correct"] == {
    "hits": 5, "n": 5, "low": pytest.approx(0.5655, abs=1e-4), "high": 1.0,
  }  # fmt: skip
  assert (tmp_path / "results.md").read_text().strip() in result.out
  assert PIL.Image.open(tmp_path / "sheet.png").size[1] > 5 * 96


def test_the_command_scores_clips_as_they_were_drawn(tmp_path, dataset):
  result = run("evaluate", "truth", f"shapes={dataset}", "n=4",
               f"out={tmp_path}")  # fmt: skip
  assert result.code == 0, result.err
  assert "| all correct | 100.0% (51.0% to 100.0%) |" in result.out
  found = json.loads((tmp_path / "results.json").read_text())
  drawn = shapes_run.Dataset(dataset).heldout(4)
  assert [c["prompt"] for c in found["clips"]] == [q.prompt for q in drawn]
  assert PIL.Image.open(tmp_path / "sheet.png").size[1] > 4 * 96
  refused("from 0 frames after the 9 given", "evaluate", "truth",
          f"shapes={dataset}", "given=9", f"out={tmp_path}")  # fmt: skip


def test_what_cannot_be_evaluated_is_one_line(
  tmp_path, tmp_path_factory, true_clips, dataset
):
  out = f"out={tmp_path / 'out'}"
  slow, short = (tmp_path_factory.mktemp(name) for name in ("slow", "short"))
  clip = HELDOUT[0]
  save(slow / "slow.mp4", clip.video, 12, prompt=clip.caption)
  save(short / "short.mp4", clip.video[:5], prompt=clip.caption)
  for arguments, message in (
    ([out], r"--workdir \(Workdir of pyramid-train\) is missing"),
    ([out, "clips=none"], r"--clips=none holds no mp4 file"),
    ([out, "clips=none", "n=1"], r"--n: nothing is generated without"),
    ([out, "clips=none", "workdir=x"], r"one of --workdir, --vae, --clips"),
    ([out, "truth", "vae=none"], r"one of --workdir, --vae, --clips"),
    ([out, "truth"], r"--shapes \(.*\) is missing"),
    ([out, "vae=none"], r"--shapes \(.*\) is missing"),
    (
      [out, "vae=none", f"shapes={dataset}", "prompts=a.txt", "steps=2,2"],
      r"--steps, --prompts: nothing is generated without --workdir",
    ),
    (
      [out, "truth", f"shapes={dataset}", "norenoise"],
      r"--renoise: nothing is generated without --workdir",
    ),
    ([out, "workdir=none"], r"none has no checkpoint"),
    ([out, f"clips={true_clips}", "shapes=none"], r"not a complete dataset"),
    (
      [out, f"clips={slow}", f"shapes={dataset}"],
      r"slow\.mp4 has 12 frames a second; captions name speeds at 24",
    ),
    (
      [out, f"clips={short}", f"shapes={dataset}"],
      r"short\.mp4 has 5 frames, fewer than the 9 .* with --frames=9",
    ),
  ):
    refused(message, "evaluate", *arguments)
  assert not list(tmp_path.iterdir())
  with pytest.raises(ConfigError, match="neither 'heldout' nor a file"):
    shapes_run.read_prompts(tmp_path / "none.txt", 3)
  (tmp_path / "a.txt").write_text("a cat\n")
  with pytest.raises(ConfigError, match="'a cat' is no caption"):
    shapes_run.read_prompts(tmp_path / "a.txt", 3)
  (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
  with pytest.raises(ConfigError, match=r"b\.txt is not text"):
    shapes_run.read_prompts(tmp_path / "b.txt", 3)
