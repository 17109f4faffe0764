"""Videos to go on from are cut to whole units."""

import logging

import pytest

from pyramid_jax.config import ConfigError, GenerateConfig
from pyramid_jax.generate.given import names, read_all
from tests.data import videos


def read(path, length, per_unit, **changes):
  videos.write_video(path, videos.numbered(length))
  options = GenerateConfig(height=32, width=32, **{"frames": 49, **changes})
  (given,) = read_all([], [str(path)], 1, options, per_unit)
  return videos.numbers(given)


@pytest.mark.parametrize(
  "length, per_unit, kept", [(29, 1, 25), (29, 2, 17), (49, 1, 41), (49, 2, 33)]
)
def test_a_video_is_trimmed_to_whole_units_and_leaves_one(
  tmp_path, caplog, length, per_unit, kept
):
  with caplog.at_level(logging.WARNING):
    assert read(tmp_path / "a.mp4", length, per_unit) == list(range(kept))
  left = [f"the last {length - kept} frames are left out"] * (length == 29)
  assert [r.message.split(": ")[-1].rstrip(".") for r in caplog.records] == left


def test_a_length_that_is_no_multiple_of_8_leaves_more(tmp_path):
  """As a VAE that halves time once allows."""
  assert read(tmp_path / "a.mp4", 29, 1, frames=21) == list(range(9))


@pytest.mark.parametrize(
  "length, changes, message",
  [
    (12, {}, "too short: 12 frames .* at least 17 are needed"),
    (49, {"frames": 17}, "takes 17 frames .* leaves 16; .* 17, make it 33"),
  ],
)
def test_less_than_a_unit_of_video_is_refused(
  tmp_path, length, changes, message
):
  with pytest.raises(ConfigError, match=message):
    read(tmp_path / "a.mp4", length, 2, **changes)


@pytest.mark.parametrize(
  "images, flipped, message",
  [
    (["a.png", "clip.MP4"], False, "--image=clip.MP4 .* as --video=clip.MP4"),
    (["a.webp"], True, "--video=a.webp is named as images .* --image=a.webp"),
  ],
)
def test_a_file_of_the_other_kind_is_refused(images, flipped, message):
  given = ([], images) if flipped else (images, [])
  with pytest.raises(ConfigError, match=message):
    read_all(*given, len(images), GenerateConfig())


def test_files_are_named_by_prompt():
  assert names(["x/a.png", "b.png"], [], 2) == ["a.png", "b.png"]
  assert names([], ["x/a.mp4"], 3) == ["a.mp4"] * 3
  assert names([], [], 2) == ["", ""]
