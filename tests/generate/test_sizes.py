"""What cannot be generated, or not gone on from, is refused beforehand."""

import dataclasses

import numpy as np
import pytest

from pyramid_jax.attention import tpu
from pyramid_jax.config import (
  PRESETS,
  Config,
  ConfigError,
  DiTConfig,
  FlowConfig,
  GenerateConfig,
)
from pyramid_jax.flow.plan import unit_rows
from pyramid_jax.generate.sizes import check_rows, given_units, sampling_plan


def units(given, size=(384, 640), flow=None, **changes):
  """Of given frames, by the released models' sizes."""
  config, options = Config(flow=flow or FlowConfig()), GenerateConfig(**changes)
  plan = sampling_plan(config, options, config.vae)
  pixels = np.zeros((given, *size, 3), np.uint8)
  return given_units(pixels, plan, options, config.vae)


def test_given_frames_are_counted_in_units():
  assert [units(n) for n in (1, 9, 113)] == [1, 2, 15]
  two = FlowConfig(frames_per_unit=2)
  assert [units(n, flow=two, frames=65) for n in (1, 17, 49)] == [1, 2, 4]


@pytest.mark.parametrize(
  "given, options, message",
  [
    (8, {}, r"8 given frames are not 8 n \+ 1 .*; give 1 of them"),
    (0, {}, r"0 given frames are not"),
    (
      25,
      dict(flow=FlowConfig(frames_per_unit=2), frames=65),
      r"25 given frames are not 16 n \+ 1 \(VAE 8 x 2 .*; give 17 of them",
    ),
    (121, {}, "nothing to generate of frames 121; make it 129 or more"),
    (
      1,
      PRESETS["image"] | {"size": (1024, 1024)},
      "1 given frames leave nothing to generate of frames 1; make it 9 or more",
    ),
    (1, {"size": (384, 384)}, "of 384 x 384 x 3, asked are 384 x 640 x 3"),
    (1, dict(flow=FlowConfig(history="none")), "makes a clip all at once"),
  ],
)
def test_frames_that_cannot_be_gone_on_from_are_told(given, options, message):
  with pytest.raises(ConfigError, match=message):
    units(given, **options)


@pytest.mark.parametrize("frames", [1, 25, 57])
def test_the_longest_row_is_the_last_units(frames, monkeypatch):
  config, options = Config(), GenerateConfig(frames=frames)
  plan = sampling_plan(config, options, config.vae)
  text = np.ones((2, 32), int)
  longest = max(
    row["joint"].shape[1]
    for unit in range(plan.units)
    for row in unit_rows(plan, config.flow.stages, unit, text)
  )
  monkeypatch.setattr(tpu, "LIMIT", longest)
  check_rows(config, plan, 32, "tpu")
  with pytest.raises(ConfigError, match=f"a row of {longest + 1} tokens"):
    check_rows(config, plan, 33, "tpu")
  with pytest.raises(ConfigError, match="a row of"):
    check_rows(config, plan, 32, "tpu", parts=48)


def test_only_the_kernel_of_tpus_limits_a_row():
  config = Config(flow=FlowConfig(history="none"))
  options = GenerateConfig(**PRESETS["768p"], frames=241)
  plan = sampling_plan(config, options, config.vae)
  with pytest.raises(ConfigError, match="119168 tokens, .* exceeds the 32768"):
    check_rows(config, plan, 128, "tpu")
  check_rows(config, plan, 128, "gpu")
  other = dataclasses.replace(config, model=DiTConfig(attention="xla"))
  check_rows(other, plan, 128, "tpu")
