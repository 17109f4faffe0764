"""Image steps come from a hash; rows are numbered without gaps."""

import numpy as np
import pytest

from pyramid_jax.config import ConfigError, Phase
from pyramid_jax.data.phases import Schedule

PHASES = (
  Phase(steps=40, batch=4, frames=1),
  Phase(steps=300, batch=2, frames=17, image_ratio=0.1),
  Phase(steps=60, batch=2, frames=9, image_ratio=0.5, images=6),
)
LAST = 420  # after the end the last phase goes on


@pytest.fixture(scope="module")
def schedule():
  return Schedule(PHASES, seed=3)


def test_the_share_of_image_steps_is_that_of_the_phase(schedule):
  images = np.array([schedule.has_images(n) for n in range(400)])
  assert not images[:40].any()
  # binomial: four standard deviations
  assert abs(images[40:340].sum() - 30) < 4 * np.sqrt(27)
  assert abs(images[340:].sum() - 30) < 4 * np.sqrt(15)
  other = Schedule(PHASES, seed=4)
  assert [other.has_images(n) for n in range(400)] != images.tolist()


def test_an_image_step_has_as_many_pixels_unless_told(schedule):
  for n in range(LAST):
    shape, phase = schedule.shape(n), PHASES[schedule.phase(n)]
    if schedule.has_images(n):
      assert (shape.frames, shape.batch) == (1, {17: 34, 9: 6}[phase.frames])
    else:
      assert shape == phase
    assert shape in phase.shapes
  assert [len(phase.shapes) for phase in PHASES] == [1, 2, 2]


def test_rows_follow_each_other_over_the_run(schedule):
  end = 0
  for n in range(LAST):
    rows = schedule.rows(n)
    assert (rows.start, len(rows)) == (end, schedule.shape(n).batch)
    end = rows.stop
  # of a step alone the same, as a resumed run asks
  assert Schedule(PHASES, seed=3).rows(LAST - 1).stop == end


def test_clips_and_images_are_counted_apart(schedule):
  seen = {}
  for n in range(LAST):
    key = schedule.phase(n), schedule.has_images(n)
    assert schedule.position(n) == seen.get(key, 0)
    seen[key] = seen.get(key, 0) + schedule.shape(n).batch
  assert len(seen) == 5


def test_steps_of_one_kind_are_found_after_the_end(schedule):
  for images in (False, True):
    steps = schedule.steps_like(images, schedule.total, 5)
    assert len(steps) == 5 and steps[0] >= 400
    assert all(schedule.has_images(n) == images for n in steps)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"image_ratio": 1.5}, r"image_ratio 1\.5 is a share .* from 0 to 1"),
    ({"images": -1}, "images -1 are a batch; 0 stands for batch x frames"),
    ({"frames": 8}, r"frames 8 are not 8 n \+ 1; nearest: 9"),
  ],
)
def test_phases_that_cannot_be_are_told(change, message):
  with pytest.raises(ConfigError, match=message):
    Schedule((Phase(**change),), 0)
