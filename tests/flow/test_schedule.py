"""Stage windows against the released code, and the paper's equations."""

import math

import numpy as np
import pytest

from pyramid_jax.flow import schedule as schedule_lib
from tests import reference

FILES = reference.names("scheduler")

# The released code holds its global sigmas in float32 before it goes on in
# float64; ours are float64 throughout.
SIGMA = dict(rtol=0, atol=6e-8)
TIMESTEP = dict(rtol=0, atol=6e-5)  # 1000 times as much


def test_first_timesteps_of_a_stage_continue_where_the_last_ended():
  schedule = schedule_lib.make_schedule()
  np.testing.assert_allclose(
    schedule.timesteps[:, 0], [1000, 744, 386], rtol=1e-12
  )
  np.testing.assert_allclose(schedule.timesteps[0, -1], 744.256, rtol=1e-12)
  assert schedule.timesteps.dtype == schedule.start_sigma.dtype == np.float64


@pytest.mark.parametrize("gamma", [1 / 3, 0.25, 0.1, 1e-6, 0.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_windows_satisfy_equation_25_with_the_papers_gamma(gamma, shift):
  schedule = schedule_lib.make_schedule(4, (0, 0.2, 0.5, 0.7, 1), shift, gamma)
  paper = -gamma
  for k in range(1, 4):
    s = 1 - schedule.start_sigma[k]
    e = 1 - schedule.end_sigma[k - 1]
    # Eq. 25 without its fraction, which is 0/0 at s = 0
    left = e * ((1 - s) * math.sqrt(-paper) + s * math.sqrt(1 - paper))
    np.testing.assert_allclose(
      left, s * math.sqrt(1 - paper), rtol=0, atol=1e-15
    )
    if gamma == 1 / 3:
      np.testing.assert_allclose(e, 2 * s / (1 + s), rtol=1e-14)  # Eq. 15
    # the released code's way to write the same map
    if gamma:
      released = e / (math.sqrt(1 + 1 / gamma) * (1 - e) + e)
      np.testing.assert_allclose(s, released, rtol=0, atol=1e-15)


def test_gamma_zero_starts_every_stage_from_pure_noise():
  schedule = schedule_lib.make_schedule(gamma=0.0)
  np.testing.assert_array_equal(schedule.start_sigma, 1.0)


def test_a_stage_starts_noisier_than_the_one_before_ended():
  schedule = schedule_lib.make_schedule()
  assert (schedule.start_sigma[1:] > schedule.end_sigma[:-1]).all()
  np.testing.assert_array_equal(
    schedule.original_start[1:], schedule.end_sigma[:-1]
  )


def test_shift_maps_sigma_as_in_sd3():
  plain = schedule_lib.training_sigmas(1.0)
  shifted = schedule_lib.training_sigmas(3.0)
  np.testing.assert_allclose(
    shifted / (1 - shifted + 1e-300) * (1 - plain),
    3 * plain * (shifted < 1),
    rtol=1e-9,
  )
  assert shifted[0] == 1


def test_one_stage_is_a_plain_flow():
  schedule = schedule_lib.make_schedule(1, (0, 1))
  assert (schedule.start_sigma, schedule.end_sigma) == (1, 0)


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(stages=2), "2 stages need 3"),
    (dict(stages=0, stage_range=(0,)), "at least 1"),
    (dict(stage_range=(0, 0.6, 0.5, 1)), "must rise from 0 to 1"),
    (dict(stage_range=(0, 0.5, 0.5001, 1)), "must rise from 0 to 1"),
    (dict(stage_range=(0, 0.3, 0.6, 0.9)), "must rise from 0 to 1"),
    (dict(gamma=-1 / 3), "negative of the paper's"),
    (dict(gamma=0.34), "released models use 1/3"),
    (dict(gamma=math.nan), "outside of"),
    (dict(shift=0.0), "shift 0.0 must be above 0"),
  ],
)
def test_values_outside_of_their_limits_are_errors(settings, message):
  with pytest.raises(ValueError, match=message):
    schedule_lib.make_schedule(**settings)


def test_wrong_stage_or_steps_are_errors():
  schedule = schedule_lib.make_schedule()
  with pytest.raises(ValueError, match="stage 3 is not one of 0..2"):
    schedule_lib.inference_table(schedule, 3, 10)
  with pytest.raises(ValueError, match="at least 1"):
    schedule_lib.inference_table(schedule, 0, 0)
