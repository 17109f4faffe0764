"""Comparisons that compile much: chunks, tiles, losses, other generations."""

import pytest

from tests.reference import names
from tests.verify.compare import check
from tests.verify.test_flow import GENERATIONS
from tests.verify.test_vae import LONG


@pytest.mark.parametrize("name", [*sorted(LONG), *names("vae_tiled")])
def test_clips_chunks_and_tiles_of_the_released_code(name):
  check(name, 0.1)


@pytest.mark.parametrize("name", names("vae_loss"))
def test_losses_and_their_gradients_of_the_released_code(name):
  check(name, 0.5)  # a mean of logits is small beside what it sums


@pytest.mark.parametrize("name", names("vae_pipeline", "positions"))
def test_bytes_and_positions_of_the_released_code(name):
  check(name, 1.0)  # a value between two of 256 levels may round either way


@pytest.mark.parametrize(
  "name",
  sorted({*names("sampler_mmdit", "sampler_flux")} - set(GENERATIONS)),
)
def test_generated_latents_of_the_released_code(name):
  check(name, 0.6)
