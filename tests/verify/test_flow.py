"""Schedules, noise, training examples and whole generations."""

import pytest

from tests.reference import names
from tests.verify.compare import check


@pytest.mark.parametrize(
  "name",
  names(
    "scheduler", "block_noise", "stage_lengths", "noise", "noise_history",
  ),
)  # fmt: skip
def test_schedule_noise_and_examples_of_the_released_code(name):
  check(name, 1.0)  # rounding of the released code's float32, no margin


# with guidance, of either transformer; the rest with --full
GENERATIONS = "sampler_mmdit_t2v", "sampler_flux_t2v"


@pytest.mark.parametrize("name", GENERATIONS)
def test_generated_latents_of_the_released_code(name):
  # guidance 7 on random weights amplifies what differs in each step
  check(name, 0.6)
