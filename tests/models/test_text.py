"""The two ways of combining text encoders give the reference's numbers."""

import dataclasses

import pytest

from pyramid_jax.config import ConfigError, T5Config
from pyramid_jax.models.pure import pure
from pyramid_jax.models.text import (
  CLIP_G,
  CLIP_L,
  TextConfigs,
  TextModel,
  combine,
)

UNPROJECTED = dataclasses.replace(CLIP_L, projection=0)
NAMES = {"sd3": ("clip_l", "clip_g"), "flux": ("clip_l",)}


def test_full_size_parameters_and_widths():
  sd3 = TextConfigs()
  assert sd3.pooled == 2048
  assert pure(lambda rngs: TextModel(sd3, rngs=rngs)).size == 5_580_620_800
  flux = combine("flux", T5Config(), [CLIP_L])
  assert flux.pooled == 768
  assert pure(lambda rngs: TextModel(flux, rngs=rngs)).size == 4_885_371_136


@pytest.mark.parametrize(
  ("kind", "clips", "message"),
  [
    ("sd2", (CLIP_L,), "'sd2' is unknown; use one of sd3, flux"),
    ("sd3", (CLIP_L,), "takes 2 CLIP configs, not 1"),
    ("flux", (CLIP_L,), r"projections \[768\]"),
    (
      "sd3",
      (dataclasses.replace(CLIP_L, projection=0), CLIP_G),
      "sd3 projects",
    ),
  ],
)
def test_what_does_not_combine_is_refused(kind, clips, message):
  with pytest.raises(ConfigError, match=message):
    TextConfigs(kind, T5Config(), clips)
