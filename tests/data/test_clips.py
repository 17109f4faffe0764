"""Batches of clips are functions of their number, and hold what they should."""

import logging
import pickle

import av
import numpy as np
import numpy.testing as npt
import PIL.Image
import pytest

from pyramid_jax.config import ConfigError, Phase, VideoDataConfig
from pyramid_jax.data.clips import TrainingClips
from pyramid_jax.data.shapes_store import ShapesConfig, Stored, write
from tests.data.videos import numbered, numbers, write_video

PHASES = (
  Phase(steps=3, batch=4, frames=1, height=32, width=32),
  Phase(steps=2, batch=2, frames=9, height=32, width=32),
)


def take(clips, start, count, places_of=range):
  return list(clips.batches(range(start, start + count), places_of))


def assert_same(actual, desired):
  assert len(actual) == len(desired)
  for a, b in zip(actual, desired, strict=True):
    npt.assert_array_equal(a["video"], b["video"])
    npt.assert_array_equal(a["index"], b["index"])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
  """Six clips to train on and three held out."""
  settings = ShapesConfig(clips=6, heldout=3, frames=17, height=32, width=32)
  folder = write(tmp_path_factory.mktemp("clips") / "shapes", settings)
  return str(folder)


@pytest.fixture
def shapes(rendered):
  return TrainingClips(VideoDataConfig(rendered, PHASES), seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Videos of rising gray, an image, and files that cannot be used."""
  folder = tmp_path_factory.mktemp("files")
  for i, count in enumerate((17, 20, 25, 25, 30, 5)):
    write_video(folder / f"{i}.mp4", numbered(count, 48, 64))
  for name in ("a", "b"):
    PIL.Image.new("RGB", (64, 64), (16, 16, 16)).save(folder / f"{name}.png")
  (folder / "broken.mp4").write_bytes(b"no video")
  return folder


def test_a_batch_has_the_shape_of_its_phase_and_rows_are_numbered(shapes):
  batches = take(shapes, 0, 5)
  assert [b["video"].shape[:2] for b in batches] == [(4, 1)] * 3 + [(2, 9)] * 2
  rows = [len(shapes.schedule.rows(step)) for step in range(6)]
  assert rows == [4, 4, 4, 2, 2, 2]
  npt.assert_array_equal(
    np.concatenate([b["index"] for b in batches]), range(16)
  )
  for b in batches:
    assert b["video"].dtype == np.float32
    assert -1 <= b["video"].min() < b["video"].max() <= 1


def test_what_the_rows_depend_on_changes_with_the_files(folder, tmp_path):
  config = VideoDataConfig(str(tmp_path), PHASES)
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  before = TrainingClips(config, seed=3).settings
  assert before == TrainingClips(config, seed=4).settings
  (tmp_path / "later.mp4").write_bytes((folder / "2.mp4").read_bytes())
  after = TrainingClips(config, seed=3).settings
  # where they lie does not matter
  there = VideoDataConfig(str(folder), PHASES)
  assert before == TrainingClips(there, seed=3).settings
  assert before["clips to train on"] != after["clips to train on"]
  (tmp_path / "later.mp4").unlink()
  assert TrainingClips(config, seed=3).settings == before
  # as many files, one of another length
  (tmp_path / "2.mp4").write_bytes((folder / "4.mp4").read_bytes())
  assert TrainingClips(config, seed=3).settings != before


@pytest.mark.parametrize("start", [1, 3, 4])
def test_a_run_continues_exactly_at_any_step(shapes, start):
  # the last phase goes on after its end
  assert_same(take(shapes, start, 6 - start), take(shapes, 0, 6)[start:])


def test_hosts_load_parts_of_the_same_batch(shapes):
  whole = take(shapes, 0, 5)
  halves = [
    take(shapes, 0, 5, lambda n, h=h: range(h * n // 2, (h + 1) * n // 2))
    for h in range(2)
  ]
  joined = [
    {key: np.concatenate([a[key], b[key]]) for key in a}
    for a, b in zip(*halves, strict=True)
  ]
  assert_same(joined, whole)


def test_loader_processes_give_the_same_batches(shapes):
  batches = shapes.batches(range(2, 4), range)
  sent = pickle.loads(pickle.dumps(shapes))
  assert_same(take(sent, 2, 2), list(batches))


def test_a_row_is_a_run_of_frames_of_a_training_clip(shapes, rendered):
  stored = [clip.video for clip in Stored(rendered)]
  seen = set()
  for batch in take(shapes, 3, 6):
    for video in np.rint((batch["video"] + 1) * 127.5).astype(np.uint8):
      places = [
        (i, start)
        for i, clip in enumerate(stored)
        for start in range(9)
        if (clip[start : start + 9] == video).all()
      ]
      assert len(places) == 1
      seen.update(places)
  assert {i for i, _ in seen} == set(range(6))  # two epochs
  assert len({start for _, start in seen}) > 3


MIXED = (
  Phase(steps=4, batch=2, frames=9, height=32, width=32, image_ratio=0.5),
  Phase(2, 2, 9, 16, 16, image_ratio=0.9, images=3),
)


def test_images_are_those_of_the_image_files(folder):
  clips = TrainingClips(VideoDataConfig(str(folder), MIXED), seed=0)
  images = 0
  for step, batch in enumerate(take(clips, 0, 8)):
    of_images = clips.schedule.has_images(step)
    images += of_images
    names = clips.samples(step)
    assert all(name.endswith("png") == of_images for name in names)
    shape = clips.schedule.shape(step)
    assert batch["video"].shape == (
      shape.batch, shape.frames, shape.height, shape.width, 3,
    )  # fmt: skip
    if of_images:
      assert shape.frames == 1 and shape.batch == (18 if step < 4 else 3)
      npt.assert_allclose((batch["video"] + 1) * 127.5, 16, atol=1e-4)
    npt.assert_array_equal(batch["index"], clips.schedule.rows(step))
  assert 0 < images < 8


def test_without_image_files_single_frames_of_clips_are_the_images(rendered):
  clips = TrainingClips(VideoDataConfig(rendered, MIXED), seed=3)
  stored = np.concatenate([clip.video for clip in Stored(rendered)])
  (step,) = clips.schedule.steps_like(True, 0, 1)
  (batch,) = take(clips, step, 1)
  frames = np.rint((batch["video"][:, 0] + 1) * 127.5).astype(np.uint8)
  assert batch["video"].shape == (18, 1, 32, 32, 3)
  for frame in frames:
    assert (stored == frame).all((1, 2, 3)).any()


@pytest.mark.parametrize("start", [1, 4, 5])
def test_a_mixed_run_continues_exactly_at_any_step(rendered, start):
  clips = TrainingClips(VideoDataConfig(rendered, MIXED), seed=3)
  assert_same(take(clips, start, 7 - start), take(clips, 0, 7)[start:])


def test_every_clip_comes_once_an_epoch(folder):
  config = VideoDataConfig(str(folder), (Phase(9, 2, 1, 32, 32),))
  clips = TrainingClips(config, 0)
  asked = []
  clips.source.read = lambda i, *_: asked.append(i) or np.zeros((1, 1, 1, 3))
  count = len(clips.source.lengths)
  for row in range(3 * count):
    clips.clip(row // 2, row % 2)
  for epoch in range(3):
    part = asked[epoch * count : (epoch + 1) * count]
    assert sorted(part) == list(range(count))


def test_another_size_is_covered_and_cropped(rendered):
  phase = Phase(steps=1, batch=6, frames=9, height=16, width=24)
  clips = TrainingClips(VideoDataConfig(rendered, (phase,)), 0)
  assert take(clips, 0, 1)[0]["video"].shape == (6, 9, 16, 24, 3)


def test_held_out_clips_are_fixed_and_not_trained_on(shapes, rendered):
  held = shapes.heldout(8)
  stored = [clip.video[4:13] for clip in Stored(rendered, "heldout")]
  npt.assert_array_equal(
    np.rint((np.stack(held) + 1) * 127.5), np.stack(stored)
  )
  assert len(shapes.heldout(2)) == 2


def test_files_that_cannot_be_used_are_named_and_left_out(folder, caplog):
  config = VideoDataConfig(str(folder), PHASES)
  with caplog.at_level(logging.INFO):
    clips = TrainingClips(config, 0)
  assert "broken.mp4 is left out" in caplog.text
  assert "1 left out" in caplog.text
  train, held = set(clips.source.names), set(clips.held_out.names)
  assert not train & held and len(train | held) == 8
  assert {name[-3:] for name in held} == {"mp4", "png"}
  ((name, reason),) = clips.skipped
  assert name.endswith("broken.mp4") and reason
  # images and clips too short for the only phase are named, too
  long = VideoDataConfig(str(folder), PHASES[-1:])
  skipped = dict(TrainingClips(long, 0).skipped)
  images = {n: why for n, why in skipped.items() if n.endswith("png")}
  assert images and all(
    why == "too short: 1 frames at 24 a second, at least 9 are needed"
    for why in images.values()
  )


def test_frames_of_a_file_follow_each_other(folder):
  clips = TrainingClips(VideoDataConfig(str(folder), PHASES), 0)
  starts = set()
  for batch in take(clips, 3, 8):
    for video in (batch["video"] + 1) * 127.5:
      first, *rest = numbers(video)
      assert rest == list(range(first + 1, first + 9))
      starts.add(first)
  assert len(starts) > 5
  assert clips.heldout(8)[0].shape == (9, 32, 32, 3)


@pytest.fixture
def damaged(tmp_path):
  """Five good videos, and two whose damage only decoding shows."""
  for i in range(7):
    path = write_video(tmp_path / f"{i}.mp4", numbered(9))
    if i % 4 == 1:
      with av.open(str(path)) as file:
        packet = next(file.demux(video=0))
      data = bytearray(path.read_bytes())
      data[packet.pos + 5 : packet.pos + packet.size] = b"x" * (packet.size - 5)
      path.write_bytes(data)
  return VideoDataConfig(str(tmp_path), (Phase(9, 2, 9, 32, 32),))


def test_damage_is_named_once_and_the_run_goes_on_the_same(damaged, caplog):
  clips = TrainingClips(damaged, 0)
  first = take(clips, 0, 8)
  named = [r.getMessage() for r in caplog.records if "is damaged" in r.message]
  bad = [n for n in clips.source.names if n.endswith(("1.mp4", "5.mp4"))]
  assert sorted(m.split()[0] for m in named) == bad
  for batch in first:
    for video in (batch["video"] + 1) * 127.5:
      assert numbers(video) == list(range(9))
  assert_same(take(TrainingClips(damaged, 0), 3, 5), first[3:])


def test_nothing_but_damage_ends_the_run(damaged):
  clips = TrainingClips(damaged, 0)
  good = [n for n in clips.source.names if n.endswith(("1.mp4", "5.mp4"))]
  clips.source.names = [good[0]] * len(clips.source.names)
  with pytest.raises(ConfigError, match="20 clips one after the other"):
    clips.clip(0, 0)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"path": ""}, "config.videos.path is empty"),
    ({"fps": 12.0}, "config.videos.fps is 12, but .* set it to 24"),
    ({"phases": (Phase(1, 1, 25, 32, 32),)}, "needs 25 frames.*6 training.*17"),
    ({"phases": (Phase(1, 1, 8, 32, 32),)}, "frames 8 are not 8 n .*est: 9"),
  ],
)
def test_settings_that_do_not_fit_are_refused(rendered, changes, message):
  settings = {"path": rendered, "phases": PHASES} | changes
  with pytest.raises(ConfigError, match=message):
    TrainingClips(VideoDataConfig(**settings), 0)


def test_one_file_cannot_be_trained_and_measured_on(folder):
  with pytest.raises(ConfigError, match="1 usable of 1 files; at least 2"):
    TrainingClips(VideoDataConfig(str(folder / "0.mp4"), PHASES), 0)
