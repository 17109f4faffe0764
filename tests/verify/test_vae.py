"""The causal VAE against the released code: images and single blocks."""

import pytest

from tests.reference import names
from tests.verify.compare import check

LONG = {"vae_chunk", "vae_video"}  # many programs; with --full


@pytest.mark.parametrize("name", sorted({*names("vae", "vae_blocks")} - LONG))
def test_moments_pixels_and_blocks_of_the_released_code(name):
  check(name, 0.1)
