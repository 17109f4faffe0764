"""Rows are measured as attention will see them."""

import pathlib
import runpy

import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.attention.ranges import key_ranges
from pyramid_jax.config import (
  Config,
  EncodeConfig,
  LatentDataConfig,
  Source,
  from_dict,
)
from pyramid_jax.cost import workload

GROUPS = [[5, 3, 4], [9], [2, 2, 2, 8]]
LENGTH = 40
CURRICULUM = pathlib.Path(__file__).parents[2] / "configs" / "curriculum.py"


def ranges(causal):
  """What `key_ranges` lets each token of GROUPS see."""
  segment, frame = [], []
  for s, sizes in enumerate(GROUPS, 1):
    for f, n in enumerate(sizes):
      segment += [s] * n
      frame += [f] * n
  pad = [0] * (LENGTH - len(segment))
  start, end = key_ranges(
    jnp.array([segment + pad]), jnp.array([frame + pad]), causal=causal
  )
  return np.array(start[0]), np.array(end[0])


def mask(causal):
  """The same, for each pair of a query and a key."""
  start, end = ranges(causal)
  key = np.arange(LENGTH)
  return (key >= start[:, None]) & (key < end[:, None])


@pytest.mark.parametrize("causal", [True, False])
def test_pairs_are_those_of_the_mask(causal):
  pairs, _ = workload.attention_pairs(GROUPS, LENGTH, (8, 4), causal)
  assert pairs == mask(causal).sum()


@pytest.mark.parametrize("causal", [True, False])
def test_visited_tiles_hold_every_pair_and_few_others(causal):
  _, visited = workload.attention_pairs(GROUPS, LENGTH, (8, 4), causal)
  tiles = mask(causal).reshape(5, 8, 10, 4).any((1, 3))
  # a tile between two segments' keys is visited too, so not always equal
  assert tiles.sum() * 32 <= visited <= LENGTH**2
  assert visited == 32 * sum(
    1 + np.flatnonzero(row).max() - np.flatnonzero(row).min() for row in tiles
  )
  first, last = ranges(causal)
  seen = last > first
  assert visited == workload.visited_pairs(
    first[seen], last[seen], LENGTH, (8, 4)
  )


def test_a_row_of_assumed_images_holds_as_many_as_fit():
  config = Config(
    encode=EncodeConfig(sizes=((512, 512),), min_frames=1, max_frames=1),
    latents=LatentDataConfig(
      sources=(Source("not there"),), latent_tokens=4096, text_tokens=1024,
      stage_weights=(0, 0, 1.0),
    ),
  )  # fmt: skip
  found = workload.measure(config, (512, 1024))
  # an image of 512 x 512 is 1024 tokens at full resolution
  assert 3.9 < found.samples <= 4 and found.latent <= 4096
  assert "512x512" in found.assumed and "1 to 1 frames" in found.assumed


@pytest.mark.parametrize(
  "stage, paper",
  [("image", 1536), ("384p_2s", 768), ("384p_5s", 768), ("768p", 384)],
)
def test_a_step_of_the_curriculum_has_the_samples_of_the_paper(
  monkeypatch, stage, paper
):
  made = runpy.run_path(str(CURRICULUM))
  config = from_dict(Config, made["get_config"](f"mmdit_{stage}"))
  row = workload.measure(config, (512, 1024))
  assert row.assumed  # no data there
  samples = config.latents.rows * row.samples
  np.testing.assert_allclose(samples, paper, rtol=0.03)
  told, _, capped = made["__doc__"].partition("With captions at the cap")
  assert f"{samples:.0f}" in told
  monkeypatch.setattr(workload, "PROMPT", (config.text.max_tokens, 0))
  row = workload.measure(config, (512, 1024))
  data = config.latents
  full = (row.latent + row.text) / (data.latent_tokens + data.text_tokens)
  assert f"{data.rows * row.samples:.0f}" in capped
  assert f"{full:.0%}" in capped
