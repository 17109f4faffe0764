"""An object that most frames show is told from one that is there all along."""

import pytest

from pyramid_jax.data import shapes
from pyramid_jax.evals import shapes_report
from pyramid_jax.evals.shapes_score import Rate, score, summary

FRAMES = 17
CLIPS = [shapes.render(i, 11, FRAMES, 64, 64, "heldout") for i in (0, 3, 7)]
each_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda c: c.caption)


def without(clip, first, last):
  """The clip with nothing but background from a frame up to another."""
  video = clip.video.copy()
  video[first:last] = shapes.BACKGROUNDS[clip.attributes["background"]]
  return video


def changed(clip, first, name, word):
  """The clip, whose object has another shape or color from a frame on."""
  (item,) = clip.attributes["objects"]
  other = {**clip.attributes, "objects": [{**item, name: word}]}
  video = clip.video.copy()
  video[first:] = shapes._paint(other, *video.shape[:3])[first:]
  return video


def another(clip, name, table):
  said = clip.attributes["objects"][0][name], clip.attributes["background"]
  return next(word for word in table if word not in said)


@each_clip
def test_what_a_true_clip_shows_lasts(clip):
  record = score(clip.caption, clip.video, FRAMES)
  assert record["all_correct"] and record["lasts"]
  assert shapes_report.verdict(record) == "HIT"
  # without its first frame it is the same from the second on
  assert score(clip.caption, clip.video, FRAMES, given=1)["given_kept"]


@each_clip
@pytest.mark.parametrize("first, last", [(11, 17), (5, 10), (0, 3)])
def test_an_object_that_is_away_for_a_while_does_not_last(clip, first, last):
  record = score(clip.caption, without(clip, first, last), FRAMES)
  assert record["all_correct"] and not record["lasts"]
  assert shapes_report.verdict(record) == "HIT, for most of it"


@each_clip
# 4 of 17 frames: fewer change no color that is read, more do
@pytest.mark.parametrize(
  "name, table, first", [("shape", shapes.SHAPES, 11),
                         ("color", shapes.COLORS, 13)]
)  # fmt: skip
def test_an_object_that_becomes_another_does_not_last(clip, name, table, first):
  video = changed(clip, first, name, another(clip, name, table))
  record = score(clip.caption, video, FRAMES)
  assert record["all_correct"] and not record["lasts"]
  record = score(clip.caption, video[::-1], FRAMES)  # at the beginning
  assert record["hits"][name] and not record["lasts"]


def test_an_object_that_keeps_its_outline_lasts_by_its_color_alone():
  clip = shapes.render(5, 11, FRAMES, 64, 64, "heldout")
  assert "white square" in clip.caption and "black" in clip.caption
  # yellow covers as much of black as white does: no shape tells them apart
  record = score(clip.caption, changed(clip, 13, "color", "yellow"), FRAMES)
  assert record["all_correct"] and not record["lasts"]


def test_an_object_of_another_color_for_a_third_does_not_last():
  clip = CLIPS[0]
  video = changed(clip, 11, "color", another(clip, "color", shapes.COLORS))
  assert not score(clip.caption, video, FRAMES)["lasts"]


def test_what_an_image_shows_lasts():
  for i in range(4):
    image = shapes.render(i, 11, 1, 64, 64, "heldout")
    record = score(image.caption, image.video, 1)
    assert record["all_correct"] and record["lasts"]


@each_clip
def test_given_objects_are_kept_only_to_the_end(clip):
  record = score(clip.caption, without(clip, 11, 17), FRAMES, given=1)
  assert record["all_correct"] and not record["given_kept"]


def test_an_object_that_was_never_there_does_not_last():
  clip = CLIPS[0]
  record = score(clip.caption, without(clip, 0, FRAMES), FRAMES)
  assert not record["all_correct"] and not record["lasts"]


def test_of_correct_clips_those_count_whose_objects_last():
  videos = [clip.video for clip in CLIPS]
  videos[1] = without(CLIPS[1], 11, 17)
  records = [
    {"combination": "", **score(clip.caption, video, FRAMES)}
    for clip, video in zip(CLIPS, videos, strict=True)
  ]
  found = summary(records)
  assert found["all correct"] == Rate(3, 3)
  assert found["all correct throughout"] == Rate(2, 3)
  table = shapes_report.markdown(found, 3)
  assert "| all correct throughout | 66.7% (" in table
  # what lasts but is another object does not count
  records[0] |= {"all_correct": False}
  assert summary(records)["all correct throughout"] == Rate(1, 3)
