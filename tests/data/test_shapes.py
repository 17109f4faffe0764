"""The embedded dataset shows what its captions say, and is kept or refused."""

import itertools
import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.data import shapes, workers
from pyramid_jax.data.shapes_store import ShapesConfig, Stored, write

CLIPS = [shapes.render(i, seed=3, frames=9) for i in range(60)]
PAIRS = [
  shapes.render(i, 3, 9, 64, 96, "heldout", two_objects=1.0) for i in range(12)
]


def pixels(clip, item):
  """Which pixels have the object's colour, its blended edge left out."""
  color = np.array(shapes.COLORS[item["color"]])
  return np.abs(clip.video.astype(int) - color).sum(-1) < 60


@pytest.mark.parametrize("clip", [*CLIPS[:20], *PAIRS], ids=lambda c: c.id)
def test_objects_are_where_the_attributes_say(clip):
  frames, height, width, _ = clip.video.shape
  for item in clip.attributes["objects"]:
    inside = pixels(clip, item)
    truth = shapes.positions(item, frames)
    for frame, (x, y) in zip(inside, truth, strict=True):
      ys, xs = np.nonzero(frame)
      box = np.array([xs.min(), xs.max() + 1, ys.min(), ys.max() + 1])
      reach = shapes.extent(item["shape"]) * item["radius"]
      # a pixel that is nearly covered counts as a whole one
      assert (box >= np.array([x, x, y, y]) - reach - 0.5).all()
      assert (box <= np.array([x, x, y, y]) + reach + 0.5).all()
      assert np.hypot(xs.mean() + 0.5 - x, ys.mean() + 0.5 - y) < 0.75
      assert box.min() > 0 and box[1] < width and box[3] < height


@pytest.mark.parametrize("clip", CLIPS[:20], ids=lambda c: c.id)
def test_the_motion_is_the_one_that_the_caption_names(clip):
  item = clip.attributes["objects"][0]
  inside = pixels(clip, item)
  centres = [np.argwhere(frame).mean(0)[::-1] for frame in inside]
  moved = centres[-1] - centres[0]
  heading = np.array(shapes.DIRECTIONS[item["direction"]])
  speed = np.linalg.norm(moved) / (len(inside) - 1) * shapes.FPS / 64
  quick = speed > (shapes.SPEEDS["slowly"] + shapes.SPEEDS["quickly"]) / 2
  assert item["speed"] == ("quickly" if quick else "slowly")
  # pixels are counted whole: about a tenth of a pixel of error
  np.testing.assert_allclose(
    moved / np.linalg.norm(moved), heading / np.linalg.norm(heading), atol=0.1
  )
  assert f" moves {item['speed']} {item['direction']} on a " in clip.caption


def test_a_caption_names_every_attribute_in_one_sentence():
  clip = next(c for c in CLIPS if c.attributes["background"] == "blue")
  o = clip.attributes["objects"][0]
  assert clip.caption == (
    f"a {o['size']} {o['color']} {o['shape']} moves {o['speed']} "
    f"{o['direction']} on a blue background"
  )
  assert PAIRS[0].caption.count(" moves ") == 2
  assert " while a " in PAIRS[0].caption
  assert "moves" not in shapes.render(0, frames=1).caption


def test_captions_use_only_the_listed_words():
  used = {w for clip in [*CLIPS, *PAIRS] for w in clip.caption.split()}
  assert used <= set(shapes.words())


def test_colors_differ_from_the_background_and_from_each_other():
  for clip in [*CLIPS, *PAIRS]:
    scene = clip.attributes
    names = [scene["background"], *(o["color"] for o in scene["objects"])]
    assert len(set(names)) == len(names)
  table = {**shapes.COLORS, **shapes.BACKGROUNDS}
  for a, b in itertools.combinations(table.values(), 2):
    assert np.abs(np.subtract(a, b)).max() >= 70


def test_every_attribute_occurs():
  seen = [c.attributes["objects"][0] for c in CLIPS]
  for key, table in (
    ("shape", shapes.SHAPES),
    ("color", shapes.COLORS),
    ("size", shapes.SIZES),
    ("direction", shapes.DIRECTIONS),
    ("speed", shapes.SPEEDS),
  ):
    assert {o[key] for o in seen} == set(table)


def test_training_never_shows_an_unseen_pair_and_heldout_shows_both_kinds():
  for clip in CLIPS:
    pair = clip.attributes["objects"][0]
    assert not shapes.is_unseen(pair["shape"], pair["color"])
    assert not clip.attributes["unseen"]
  heldout = [shapes.render(i, 3, 1, split="heldout") for i in range(12)]
  assert [c.attributes["unseen"] for c in heldout] == [True, False] * 6
  assert [c.attributes["unseen"] for c in PAIRS] == [True, False] * 6


def test_a_clip_depends_on_its_arguments_alone():
  again = shapes.render(5, seed=3, frames=9)
  np.testing.assert_array_equal(again.video, CLIPS[5].video)
  assert again.attributes == CLIPS[5].attributes
  for other in (
    shapes.render(6, seed=3, frames=9),
    shapes.render(5, seed=4, frames=9),
    shapes.render(5, seed=3, frames=9, split="heldout"),
  ):
    assert other.attributes != again.attributes
    assert other.id != again.id


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_edges_are_smooth_and_motion_is_below_a_pixel(shape):
  # mean intensity = covered area; it hardly changes while the object moves by
  # fractions of a pixel, as it would with hard edges
  grid = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1) + 0.5
  areas = []
  for x in np.linspace(16, 17, 11):
    distance = shapes.signed_distance(shape, (grid - (x, 16.3)) / 8) * 8
    areas.append(np.clip(0.5 - distance, 0, 1).sum())
  assert np.ptp(areas) / np.mean(areas) < 0.02


@pytest.mark.parametrize(
  "frames, height, width", [(1, 64, 64), (121, 64, 96), (17, 128, 128)]
)
def test_objects_stay_inside_whatever_the_length_and_size(
  frames, height, width
):
  item = shapes.render(2, 0, frames, height, width).attributes["objects"][0]
  reach = shapes.extent(item["shape"]) * item["radius"]
  track = shapes.positions(item, frames)
  assert (track - reach > 0).all()
  assert (track + reach < [width, height]).all()


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"frames": 16}, "frames 16 is not 8 n \\+ 1; nearest: 17"),
    ({"height": 16}, "size 16 x 64 is too small"),
  ],
)
def test_impossible_sizes_are_refused(arguments, message):
  with pytest.raises(ConfigError, match=message):
    shapes.render(0, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  settings = ShapesConfig(clips=6, heldout=3, frames=9)
  return write(tmp_path_factory.mktemp("shapes") / "data", settings)


def test_a_stored_clip_is_the_rendered_one(folder):
  for split, count in (("train", 6), ("heldout", 3)):
    stored = Stored(folder, split)
    assert len(stored) == count
    for i in range(count):
      clip, truth = stored[i], shapes.render(i, frames=9, split=split)
      np.testing.assert_array_equal(clip.video, truth.video)
      assert clip.caption == truth.caption and clip.id == truth.id
      assert clip.attributes == json.loads(json.dumps(truth.attributes))


@pytest.mark.parametrize("start, stop", [(0, 9), (0, 1), (3, 4), (8, 9)])
def test_some_frames_of_a_stored_clip_are_those_of_the_whole(
  folder, start, stop
):
  stored = Stored(folder)
  np.testing.assert_array_equal(
    stored.frames(1, start, stop), stored[1].video[start:stop]
  )


def test_clips_are_the_same_whatever_the_number_of_processes(tmp_path):
  settings = ShapesConfig(clips=2 * workers.LEAST, heldout=1, frames=9)
  one, two = (
    Stored(write(tmp_path / str(n), settings, processes=n)) for n in (1, 2)
  )
  assert len(one) == len(two) == 2 * workers.LEAST
  # deflated bytes, captions and all
  assert [one.records[i] for i in range(len(one))] == [
    two.records[i] for i in range(len(two))
  ]


def test_an_equal_dataset_is_kept_and_another_is_refused(folder):
  settings = ShapesConfig(clips=6, heldout=3, frames=9)
  before = {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}
  assert write(folder, settings) == folder
  assert {f.name: f.stat().st_mtime_ns for f in folder.iterdir()} == before
  assert [f.name for f in folder.parent.iterdir()] == [folder.name]
  with pytest.raises(ConfigError, match="shapes.seed: 0 -> 1"):
    write(folder, ShapesConfig(clips=6, heldout=3, frames=9, seed=1))


def test_a_foreign_folder_is_left_alone(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(ConfigError, match="not a complete dataset of shapes"):
    write(tmp_path, ShapesConfig(clips=1, heldout=1))
  assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_killed_write_leaves_no_dataset_and_the_next_one_succeeds(
  tmp_path, monkeypatch
):
  settings = ShapesConfig(clips=4, heldout=1, frames=1)
  with monkeypatch.context() as patch:
    real = shapes.render
    patch.setattr(
      shapes, "render", lambda i, *a: real(i, *a) if i < 2 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
      write(tmp_path / "data", settings)
  assert not (tmp_path / "data").exists()
  write(tmp_path / "data", settings)
  assert len(Stored(tmp_path / "data")) == 4
  assert [f.name for f in tmp_path.iterdir()] == ["data"]


def test_reading_and_writing_need_no_tensorflow(folder):
  code = (
    "import sys; from pyramid_jax.data.shapes_store import Stored; "
    f"Stored({str(folder)!r})[0]; assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_writing_leaves_no_folder_elsewhere(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
  (tmp_path / "temporary").mkdir()
  write(tmp_path / "data", ShapesConfig(1, 1, frames=9, height=32, width=32))
  assert not list((tmp_path / "temporary").iterdir())
