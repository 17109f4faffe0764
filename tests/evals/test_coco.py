"""The study on MS-COCO: two runs that differ in the pyramid alone."""

import dataclasses
import pathlib
import runpy

import pytest

from pyramid_jax.config import Config, differences, from_dict
from pyramid_jax.data import pipeline
from pyramid_jax.data.packing import Planner
from pyramid_jax.data.rows import TokenSpec
from pyramid_jax.generate.benchmark import BENCHMARKS
from tests.data import random_store

ROOT = pathlib.Path(__file__).parents[2]
STAGES = {"pyramid": {0, 1, 2}, "full": {0}}
# latents of the image stage's sizes, prompts of about 62 tokens
IMAGES = dict(frames=(1, 1), sizes=((64, 64), (48, 80), (80, 48)),
              text=(32, 92))  # fmt: skip


def read(file, *which):
  made = runpy.run_path(str(ROOT / "configs" / file))
  return from_dict(Config, made["get_config"](*which))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  return random_store.write(tmp_path_factory.mktemp("images"), 48, **IMAGES)


def test_the_runs_differ_in_the_pyramid_alone_at_equal_tokens_and_steps():
  pyramid, full = (read("coco_3k.py", which) for which in STAGES)
  assert {d.split(":")[0] for d in differences(pyramid, full)} == {
    "config.flow.stages", "config.flow.stage_range",
    "config.latents.latent_tokens", "config.latents.text_tokens",
    "config.latents.segments",
    "config.generate.steps", "config.generate.video_steps",
  }  # fmt: skip
  for name in ("latents", "model", "optimizer", "train", "encode"):
    stage = getattr(read("mmdit_2b_image.py"), name)
    assert getattr(pyramid, name) == stage
  tokens = {
    c.latents.latent_tokens + c.latents.text_tokens for c in (pyramid, full)
  }
  assert tokens == {6144}
  assert sum(pyramid.generate.steps) == sum(full.generate.steps) == 60
  assert pyramid.generate.frames == BENCHMARKS["coco"].frames


@pytest.mark.parametrize("which, stages", STAGES.items())
def test_a_row_of_each_packs(images, which, stages):
  config = read("coco_3k.py", which)
  data = dataclasses.replace(config.latents, rows=1)
  planner = Planner([images], data, config.flow, config.model.patch, 0)
  spec = TokenSpec.of(config.flow, config.model)
  batches = pipeline.batches([images], planner, spec)
  row = next(batches)
  batches.close()
  assert row["segment"].shape == (1, data.latent_tokens)
  assert set(row["stage"][row["stage"] >= 0].tolist()) == stages
  # images of full resolution have 960 to 1024 tokens each
  assert (row["segment"] > 0).sum() > 0.8 * data.latent_tokens
