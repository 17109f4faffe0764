"""What the pyramid cannot divide is refused with the nearest that it can."""

import dataclasses
import re

import pytest

from pyramid_jax.config import ConfigError, DiTConfig, FlowConfig, VAEConfig
from pyramid_jax.data.sizes import check_frames, check_size, schedule_of

FLOW, MODEL, VAE = FlowConfig(), DiTConfig(), VAEConfig()


@pytest.mark.parametrize("size", [64, 384, 640, 768, 3072])
def test_multiples_of_64_fit_three_stages(size):
  check_size(size, 64, FLOW, MODEL, VAE)
  check_size(64, size, FLOW, MODEL, VAE)


@pytest.mark.parametrize(
  "size, nearest",
  [(100, 128), (95, 64), (97, 128), (383, 384), (1, 64), (0, 64), (-64, 64)],
)
def test_another_size_names_the_multiple_and_the_nearest(size, nearest):
  message = (
    rf"^height {size} is not a multiple of 64 \(2\^\(3-1\) x patch 2 x VAE 8\);"
    rf" nearest: {nearest}\.$"
  )
  with pytest.raises(ConfigError, match=message):
    check_size(size, 64, FLOW, MODEL, VAE)
  with pytest.raises(ConfigError, match=rf"^width {size} .*: {nearest}\.$"):
    check_size(64, size, FLOW, MODEL, VAE)


def test_the_multiple_follows_stages_patch_and_vae():
  flow = dataclasses.replace(FLOW, stages=2)
  check_size(96, 32, flow, MODEL, VAE)
  with pytest.raises(ConfigError, match=r"2\^\(2-1\) x patch 1 x VAE 4\)"):
    check_size(
      12,
      16,
      flow,
      dataclasses.replace(MODEL, patch=1),
      dataclasses.replace(VAE, down_space=(True, True, False, False)),
    )


def test_a_size_beyond_the_position_table_names_the_limit():
  with pytest.raises(ConfigError, match="width 3136 .* covers: 3072; choose"):
    check_size(64, 3136, FLOW, MODEL, VAE)


@pytest.mark.parametrize("frames", [1, 9, 17, 121, 241])
def test_8n_plus_1_frames_fit(frames):
  check_frames(frames, FLOW, VAE)


@pytest.mark.parametrize(
  "frames, nearest",
  [(0, 1), (2, 1), (8, 9), (16, 17), (18, 17), (120, 121), (-7, 1)],
)
def test_another_length_names_the_rule_and_the_nearest(frames, nearest):
  message = f"frames {frames} is not 8 n + 1 (VAE 8 x 1 latent frames a unit)"
  with pytest.raises(ConfigError, match=re.escape(message)) as error:
    check_frames(frames, FLOW, VAE)
  assert str(error.value).endswith(f"nearest: {nearest}.")


def test_longer_units_make_longer_steps():
  flow = dataclasses.replace(FLOW, frames_per_unit=2)
  check_frames(33, flow, VAE)
  with pytest.raises(ConfigError, match=r"25 is not 16 n \+ 1 .*nearest: 33"):
    check_frames(25, flow, VAE)  # 1.5 steps: rounds to the even number


@pytest.mark.parametrize(
  "change, message",
  [
    ({"gamma": 0.5}, r"^config\.flow: gamma 0\.5 is outside of \[0, 1/3\]"),
    ({"stages": 2}, r"^config\.flow: stage_range .* 2 stages need 3"),
    ({"shift": 0.0}, r"^config\.flow: shift 0.0 must be above 0"),
  ],
)
def test_a_pyramid_that_cannot_be_is_an_error_of_its_settings(change, message):
  with pytest.raises(ConfigError, match=message):
    schedule_of(dataclasses.replace(FLOW, **change))
