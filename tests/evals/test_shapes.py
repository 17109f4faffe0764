"""The oracle reads what a clip shows, and nothing that it does not show."""

import math

import numpy as np
import pytest
from scipy import ndimage

from pyramid_jax.config import ConfigError
from pyramid_jax.data import shapes
from pyramid_jax.evals import shapes as oracle
from pyramid_jax.evals import shapes_score
from pyramid_jax.evals.shapes_score import Rate, Seen, hits, score, summary

ONE = [shapes.render(i, 5, 9, split="heldout") for i in range(16)]
TWO = [shapes.render(i, 5, 9, 64, 96, "heldout", 1.0) for i in range(6)]


def asked(clip):
  return shapes.parse_caption(clip.caption)


def all_hit(clip, video=None, trained=None):
  pace = shapes.pace(trained or len(clip.video))
  shown = clip.video if video is None else video
  return all(hits(asked(clip), oracle.read(shown, pace)).values())


@pytest.mark.parametrize("clip", [*ONE, *TWO], ids=lambda c: c.id)
def test_a_caption_says_what_the_scene_is_and_is_read_from_its_clip(clip):
  said = asked(clip)
  assert shapes.caption(said, 9) == clip.caption
  assert said["background"] == clip.attributes["background"]
  for part, truth in zip(
    said["objects"], clip.attributes["objects"], strict=True
  ):
    assert part.items() <= truth.items()
  assert all_hit(clip)


def test_a_caption_of_a_still_image_says_nothing_of_motion():
  clip = shapes.render(0, frames=1)
  (said,) = asked(clip)["objects"]
  assert set(said) == {"shape", "color", "size"}
  assert all_hit(clip)


@pytest.mark.parametrize(
  "text",
  [
    "a cat",
    "",
    "a small red squar on a gray background",
    "a small red square moves slowly left while a large blue circle on a black "
    "background",
    "a small red square and a large blue circle moves slowly left on a black "
    "background",
  ],
)
def test_another_sentence_is_no_caption(text):
  with pytest.raises(ConfigError, match="is no caption of the embedded"):
    shapes.parse_caption(text)


def test_what_is_a_mixture_of_all_colors_is_no_known_object():
  rng = np.random.default_rng(0)
  clip = np.zeros((9, 64, 64, 3), np.uint8)
  inks = 255 * np.eye(3, dtype=np.uint8)
  clip[:, 20:42, 20:42] = inks[rng.integers(0, 3, (9, 22, 22))]
  reading = oracle.read(clip)
  assert [thing.color for thing in reading.things] == [None] * reading.count


def test_size_and_place_are_measured_to_a_part_of_a_pixel():
  for clip in [*ONE, *TWO]:
    reading = oracle.read(clip.video)
    for truth in clip.attributes["objects"]:
      track = shapes.positions(truth, 9)
      thing = min(reading.things, key=lambda x: np.abs(x.places - track).max())
      # 64 pixels a side; bytes round what a pixel at the edge is covered by
      assert np.abs(thing.places - track).max() < 0.15
      assert abs(thing.radius * 64 - truth["radius"]) < 0.2
    assert reading.unasked == 0 and reading.flicker == 0


def degraded(video, blur, noise, seed=0):
  """A VAE's faults: blur in space, noise, a colour cast."""
  rng = np.random.default_rng(seed)
  soft = ndimage.gaussian_filter(video.astype(float), (0, blur, blur, 0))
  soft = 0.92 * soft + [6, 2, 10] + rng.normal(0, noise, soft.shape)
  return np.clip(soft, 0, 255).astype(np.uint8)


def test_blur_noise_and_a_colour_cast_change_nothing():
  for i, clip in enumerate([*ONE, *TWO]):
    assert all_hit(clip, degraded(clip.video, 1.2, 8, i)), clip.caption


def test_what_is_beyond_recognition_is_unreadable_not_guessed():
  truths = [clip.attributes["objects"][0]["shape"] for clip in ONE]
  read = []
  for i, clip in enumerate(ONE):
    things = oracle.read(degraded(clip.video, 5, 4, i)).things
    read.append(things[0].shape if things else None)
  pairs = list(zip(read, truths, strict=True))
  assert all(found in (None, truth) for found, truth in pairs)
  assert read.count(None) >= len(ONE) // 4  # the small ones, above all


def plain(color=shapes.BACKGROUNDS["black"], frames=9):
  return np.full((frames, 64, 64, 3), color, np.uint8)


def box(video, color, top=20, left=20, side=18):
  video[:, top : top + side, left : left + side] = color
  return video


def test_an_empty_clip_shows_a_background_and_nothing_else():
  reading = oracle.read(plain())
  assert reading.background == "black" and reading.count == 0
  assert reading.things == ()
  found = hits(asked(ONE[0]), reading)
  assert not any(v for k, v in found.items() if k != "background")


def test_colours_that_captions_do_not_name_are_not_read():
  assert oracle.read(plain((120, 10, 60))).background is None
  reading = oracle.read(box(plain(), (245, 125, 28)))  # between red and yellow
  assert reading.count == 1
  assert reading.things[0].color is None
  assert reading.things[0].shape == "square"


def test_an_object_that_stands_still_has_no_direction_and_no_speed():
  (thing,) = oracle.read(box(plain(), shapes.COLORS["red"])).things
  assert thing.color == "red" and thing.shape == "square"
  assert thing.direction is None and thing.speed is None


def test_a_diagonal_way_has_no_direction_and_a_jump_no_speed():
  video = plain()
  for t, frame in enumerate(video):
    box(frame[None], shapes.COLORS["red"], 10 + 2 * t, 10 + 2 * t)
  assert oracle.read(video).things[0].direction is None
  video = plain()
  for t, frame in enumerate(video):
    box(frame[None], shapes.COLORS["red"], 20, 5 if t < 5 else 40)
  assert oracle.read(video).things[0].speed is None


def test_objects_that_touch_are_told_apart_by_their_colour():
  video = box(plain(), shapes.COLORS["red"], left=10)
  video = box(video, shapes.COLORS["yellow"], left=28)
  reading = oracle.read(video)
  assert reading.count == 2
  assert {x.color for x in reading.things} == {"red", "yellow"}
  assert {x.shape for x in reading.things} == {"square"}


def test_frames_in_which_an_object_is_cut_do_not_count_for_its_shape():
  clip = next(c for c in ONE if "quickly right" in c.caption)
  x = int(np.nanmax(oracle.read(clip.video).things[0].places[:, 0]))
  cut = clip.video[:, :, : x + 2]  # its last frames leave the picture
  assert all_hit(clip, np.ascontiguousarray(cut)) or (
    oracle.read(cut).things[0].shape == asked(clip)["objects"][0]["shape"]
  )


def test_what_nobody_asked_for_is_noticed():
  video = box(plain(), shapes.COLORS["red"])
  video[4, 50:58, 50:58] = 255  # too small for an object, for one frame
  assert oracle.read(video).unasked == pytest.approx(64 / 64**2)


def test_flicker_is_that_of_the_background_alone():
  clip = ONE[0]
  assert oracle.read(clip.video).flicker == 0  # whatever moves
  video = clip.video.astype(int)
  video[::2] += 3
  shown = np.clip(video, 0, 255).astype(np.uint8)
  assert oracle.read(shown).flicker == pytest.approx(3)


def test_drift_of_colour_and_shape_is_seen():
  steady = oracle.read(box(plain(), shapes.COLORS["red"])).things[0]
  assert steady.color_drift == 0 and steady.shape_drift < 1e-6
  video = box(plain(), shapes.COLORS["red"])
  video[6:] = box(plain()[6:], (196, 28, 28))
  assert oracle.read(video).things[0].color_drift == pytest.approx(40 / 3)
  video[6:] = plain()[6:]
  box(video[6:, :, :], shapes.COLORS["red"], side=18)
  video[6:, 20:29, 20:29] = shapes.BACKGROUNDS["black"]  # a corner is missing
  assert oracle.read(video).things[0].shape_drift > 0.2


def test_one_wrong_word_is_one_miss():
  clip = ONE[3]
  for name, table in (
    ("shape", shapes.SHAPES),
    ("color", shapes.COLORS),
    ("size", shapes.SIZES),
    ("direction", shapes.DIRECTIONS),
    ("speed", shapes.SPEEDS),
  ):
    said = asked(clip)
    item = said["objects"][0]
    item[name] = next(word for word in table if word != item[name])
    found = hits(said, oracle.read(clip.video))
    assert [k for k, ok in found.items() if not ok] == [name]


def test_objects_are_matched_whatever_their_order():
  for clip in TWO:
    said = asked(clip)
    said["objects"].reverse()
    assert all(hits(said, oracle.read(clip.video)).values())


def test_wilson_intervals_are_those_of_the_books():
  # Newcombe 1998, Table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
  for n, m, low, high in (
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
  ):
    np.testing.assert_allclose(Rate(n, m).interval, (low, high), atol=5e-5)


def test_a_long_clip_is_scored_in_windows_of_the_training_length():
  clip = next(c for c in ONE if "slowly" in c.caption)
  whole = np.concatenate([clip.video, clip.video, plain()[:9]])
  record = score(clip.caption, whole, trained=9)
  assert [all(w.values()) for w in record["windows"]] == [True, True, False]
  record["combination"] = "seen pairs"
  found = summary([record])["windows"]
  assert [w["kept"].hits for w in found] == [1, 1, 0]


def longer(item: dict, background: str, frames: int) -> np.ndarray:
  """The clip of an object that moves on after the training length."""
  scene = {"background": background, "objects": [item]}
  return shapes._paint(scene, frames, 64, 64)


@pytest.mark.parametrize("speed", shapes.SPEEDS)
def test_an_object_that_leaves_as_asked_is_not_missed(speed):
  clips = [shapes.render(i, 3) for i in range(24)]
  clips = [c for c in clips if f"moves {speed}" in c.caption][:6]
  records = []
  for clip in clips:
    item, scene = clip.attributes["objects"][0], clip.attributes
    video = longer(item, scene["background"], 65)
    record = score(clip.caption, video, trained=17)
    assert record["inside"][:1] == [True]
    assert record["inside"] == sorted(record["inside"], reverse=True)
    records.append({"combination": "seen pairs", **record})
  found = summary(records)["windows"]
  for w in found:
    assert w["kept"].hits == w["kept"].n
    assert not w["kept"].n or w["color change"] < 1
    assert w["still"] == w["kept"]
  most = {"slowly": 4, "quickly": 2}[speed]  # windows that hold its way
  assert found[most - 1]["kept"].n
  assert all(w["kept"].n == 0 for w in found[most:])


def test_a_lost_object_has_kept_no_colour():
  clip = next(c for c in ONE if "slowly" in c.caption)
  whole = np.concatenate([clip.video, plain()[:9]])
  record = score(clip.caption, whole, trained=9)
  assert record["color_change"] == [0, None]
  record["combination"] = "seen pairs"
  first, later = summary([record])["windows"]
  assert math.isnan(later["color change"])
  assert (first["color change n"], later["color change n"]) == (1, 0)


@pytest.mark.parametrize("given", [1, 9])
def test_later_frames_are_compared_with_the_given_ones(given):
  clip = next(c for c in ONE if "slowly" in c.caption)
  scene, item = clip.attributes, clip.attributes["objects"][0]
  other = lambda name, table: next(
    x for x in table if x not in (item[name], scene["background"])
  )
  color, shape = other("color", shapes.COLORS), other("shape", shapes.SHAPES)

  def scored(caption=clip.caption, **changed):
    video = longer(item, scene["background"], given + 9)
    later = longer({**item, **changed}, scene["background"], given + 9)
    video[given:] = later[given:]
    return score(caption, video, trained=9, given=given)

  same = scored()
  assert same["given_kept"] and same["all_correct"]
  assert same["color_change"][0] < 1 and same["shape_change"][0] < 0.02
  painted = scored(color=color)
  assert not painted["given_kept"]
  assert painted["color_change"][0] > 40 and painted["shape_change"][0] < 0.02
  formed = scored(shape=shape)
  assert not formed["given_kept"]
  assert formed["color_change"][0] < 1 and formed["shape_change"][0] > 0.1
  lost = scored(radius=0.01)  # of a pixel
  assert not lost["given_kept"]
  assert lost["color_change"] == lost["shape_change"] == [None]
  # the frames count, not what the caption says of them
  wrong = scored(clip.caption.replace(item["shape"], shape))
  assert wrong["given_kept"] and not wrong["hits"]["shape"]
  assert score(clip.caption, clip.video, trained=9)["given_kept"] is None


def test_a_long_clip_tells_its_change_of_shape_by_window():
  clip = next(c for c in ONE if "slowly" in c.caption)
  scene, item = clip.attributes, clip.attributes["objects"][0]
  shape = next(s for s in shapes.SHAPES if s != item["shape"])
  other = longer({**item, "shape": shape}, scene["background"], 9)
  whole = np.concatenate([clip.video, clip.video, other])
  record = score(clip.caption, whole, trained=9)
  assert record["shape_change"][:2] == [0, 0]
  assert record["shape_change"][2] > 0.1
  assert record["color_change"] == pytest.approx([0, 0, 0], abs=1)
  record |= {"combination": "seen pairs", "inside": [True] * 3}
  found = summary([record])["windows"]
  assert [w["shape change"] for w in found] == record["shape_change"]


def test_colours_are_compared_object_by_object():
  clip = TWO[0]
  items = clip.attributes["objects"]
  later = {**clip.attributes, "objects": [  # each where the other was
    {**a, "start": b["start"], "velocity": b["velocity"]}
    for a, b in zip(items, items[::-1], strict=True)
  ]}  # fmt: skip
  again = shapes._paint(later, *clip.video.shape[:3])
  whole = np.concatenate([clip.video, again])
  record = score(clip.caption, whole, trained=len(clip.video))
  assert record["color_change"] == pytest.approx([0, 0], abs=3)


def test_given_frames_are_not_scored():
  clip = ONE[1]
  video = np.concatenate([np.zeros_like(clip.video), clip.video])
  assert score(clip.caption, video, trained=9, given=9)["all_correct"]
  assert not score(clip.caption, video, trained=9)["all_correct"]
  with pytest.raises(ConfigError, match="cannot be read from 1 frames after"):
    score(clip.caption, clip.video, trained=9, given=8)


def test_combinations_are_those_of_the_training_captions():
  train = shapes.render(0, 5, 9).caption
  said = shapes.parse_caption(train)
  seen = Seen([train])
  assert seen.combination(train) == "seen caption"
  said["background"] = next(
    b
    for b in shapes.BACKGROUNDS
    if b not in (said["background"], said["objects"][0]["color"])
  )
  assert seen.combination(shapes.caption(said, 9)) == "seen pairs"
  unseen = [c for c in ONE if c.attributes["unseen"]]
  for clip in unseen:
    assert Seen().combination(clip.caption).startswith("unseen pair")
    assert seen.combination(clip.caption).startswith("unseen pair")


def test_a_summary_counts_clips():
  records = []
  for clip in ONE[:6]:
    record = score(clip.caption, clip.video, 9)
    records.append({"combination": "seen pairs", **record})
  records[0]["hits"] = {**records[0]["hits"], "shape": False}
  records[0]["all_correct"] = False
  found = summary(records)
  assert found["attributes"]["shape"] == Rate(5, 6)
  assert found["attributes"]["speed"] == Rate(6, 6)
  assert found["all correct"] == Rate(5, 6)
  assert found["classes"]["combination: seen pairs"] == Rate(5, 6)
  assert found["unasked"] == Rate(0, 6)
  assert set(found["attributes"]) == set(shapes_score.ATTRIBUTES)
