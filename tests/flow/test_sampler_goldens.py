"""Whole generations to latents against the released code."""

import functools

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from pyramid_jax.convert import mmdit as convert
from pyramid_jax.flow.plan import Plan, UnitNoise
from pyramid_jax.flow.sampler import generate_units
from pyramid_jax.flow.schedule import make_schedule
from pyramid_jax.models.mmdit import MMDiT
from pyramid_jax.models.pure import pure
from tests import reference

CASES = ["t2v", "image", "i2v", "t2v_nocfg", "t2v_fpu2"]
SCHEDULE = make_schedule()


@functools.cache
def model(settings):
  """One module for all files: they share their config, so compiles too."""
  config = convert.config_from_torch(dict(settings))
  return config, pure(lambda rngs: MMDiT(config, rngs=rngs))


def channels_last(x):
  """[B, C, T, H, W] -> [B, T, H, W, C]."""
  return np.moveaxis(x, 1, -1)


def read_text(file, guided):
  """Rows of text, negative first."""
  names = ("neg", "pos") if guided else ("pos",)
  join = lambda key: np.concatenate([file[f"in/{n}/{key}"] for n in names])
  return dict(
    text=join("embeds"),
    text_segment=join("mask").astype(np.int32),
    pooled=join("pooled")[:, None],
  )


def read_plan(file):
  """The plan of the released pipeline's arguments."""
  case = file.config["case"]
  arguments, image = case["kwargs"], case["mode"] == "i2v"
  _, channels, _, height, width = file["in/init_latents"].shape
  steps = tuple(arguments["num_inference_steps"])
  return Plan(
    frames=file["out/latents"].shape[2],
    height=height,
    width=width,
    channels=channels,
    steps=steps,
    # image-to-video takes the first unit's steps throughout
    later_steps=steps
    if image
    else tuple(arguments["video_num_inference_steps"]),
    guidance=arguments["guidance_scale"],
    later_guidance=arguments["video_guidance_scale"],
    frames_per_unit=case.get("pipe", {}).get("frame_per_unit", 1),
    table_size=file.config["model"]["pos_embed_max_size"],
  )


def read_noise(file, plan, first):
  """The recorded draws of a unit; image-to-video takes its noise from 0."""
  latents = channels_last(file["in/init_latents"])
  blocks = [
    channels_last(x) for _, x in sorted(file.under("in/block_").items())
  ]

  def noise(unit):
    start, stop = plan.unit_frames(unit)
    if first:
      start, stop = start - 1, stop - 1
    at = 2 * (unit - first)
    return UnitNoise(latents[:, start:stop], tuple(blocks[at : at + 2]))

  return noise


@pytest.mark.parametrize("case", CASES)
def test_generated_latents_equal_the_released_code(case):
  file = reference.load(f"sampler_mmdit_{case}")
  config, module = model(tuple(file.config["model"].items()))
  params = convert.from_torch(config, file.under("param/"), module.shapes)
  plan, prefix, first = read_plan(file), None, 0
  if case == "i2v":
    prefix, first = channels_last(file["out/latents"])[:, :1], 1
    image = (channels_last(file["in/vae_sample"]) - 0.1490) / 1.8415
    np.testing.assert_allclose(prefix, image, atol=1e-6)
  units = generate_units(
    Partial(module.apply, jax.device_put(params)),
    plan,
    SCHEDULE,
    read_text(file, plan.guided),
    noise=read_noise(file, plan, first),
    prefix=prefix,
  )
  count, worst = 0, 0.0
  for unit, ours in enumerate(units, first):
    expected = channels_last(file[f"out/unit{unit}/stage2"])
    # the reference itself is off float64 by up to 3.4e-5, at values up to 30
    worst = max(worst, np.abs(ours - expected).max())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)
    count += 1
  assert count == plan.units - first
  print(f"{case}: worst absolute error {worst:.1e}")
