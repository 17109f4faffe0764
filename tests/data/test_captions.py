"""A clip with several captions: all are kept, one is drawn for a row."""

import dataclasses
import pathlib

import numpy as np
import numpy.testing as npt
import pytest

from pyramid_jax.config import FlowConfig, LatentDataConfig, Source
from pyramid_jax.data import latents, packing, pipeline, rows
from pyramid_jax.data.latent_record import Prompt
from pyramid_jax.data.latent_writer import LatentWriter
from tests.data import random_store

SPEC = rows.TokenSpec(FlowConfig(stages=2))
CONFIG = LatentDataConfig(
  sources=(Source("s"),),
  rows=2,
  latent_tokens=512,
  text_tokens=64,
  segments=16,
  window=40,
  drop_prompt=0.0,
)


def prompts(i):
  """1 to 3 captions of clip i, of different lengths and values."""
  full = lambda value, *shape: np.full(shape, value, np.float32)
  return [
    Prompt(
      f"caption {c} of {i}",
      full(10 * i + c, 2 + c, random_store.TEXT_DIM),
      full(10 * i + c, random_store.POOLED_DIM),
    )
    for c in range(1 + i % 3)
  ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  path = tmp_path_factory.mktemp("captions") / "store"
  clips = [random_store.example(i, sizes=((8, 8),)) for i in range(12)]
  writer = LatentWriter(
    path, random_store.METADATA, random_store.NULL, [[c["id"] for c in clips]]
  )
  with writer.shard(0) as shard:
    for i, clip in enumerate(clips):
      first, *others = prompts(i)
      shard.add({**clip, **first._asdict()}, others)
  writer.finish()
  return latents.open_store(path)


def planner(store, seed=3, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  return packing.Planner([store], config, SPEC.flow, SPEC.patch, seed)


def test_every_caption_is_read_back_with_its_features(store):
  for i in range(len(store)):
    wanted = prompts(i)
    assert store.captions(i) == [p.caption for p in wanted]
    for c, prompt in enumerate(wanted):
      example = store.read(i, c)
      assert example["caption"] == prompt.caption
      npt.assert_array_equal(example["text"], prompt.text)
      npt.assert_array_equal(example["pooled"], prompt.pooled)
      npt.assert_array_equal(example["latent"], store[i]["latent"])
    assert store[i]["caption"] == wanted[0].caption
    with pytest.raises(IndexError):
      store.read(i, len(wanted))
  npt.assert_array_equal(
    store.lengths.text[:3], [[2, 0, 0], [2, 3, 0], [2, 3, 4]]
  )


def test_rows_hold_the_drawn_caption_and_the_plan_knows_its_length(store):
  plan = planner(store, segments_per_clip=2)
  source = pipeline.Rows([store], plan, SPEC)
  for n in range(8):
    row, picks = source[n], plan.row(n)
    wanted = [
      prompts(p.sample)[p.caption].text for p in picks for _ in p.choices
    ]
    text = row["text"][row["text_segment"] > 0]
    npt.assert_array_equal(text, np.concatenate(wanted))
  window = plan.window(0)
  for i in range(len(window.samples.text)):
    pick = window.samples.pick(i)
    assert window.samples.text[i] == 2 * (2 + pick.caption)


def test_captions_are_drawn_alike_and_anew_every_epoch(store):
  plan = planner(store)
  drawn = {}
  for turn in range(200):
    samples = plan.draws.at(turn, np.arange(len(store)))
    for i in range(len(store)):
      pick = samples.pick(i)
      assert drawn.setdefault((pick.epoch, pick.sample), pick.caption) < 3
  for sample in range(len(store)):
    count = 1 + sample % 3
    mine = [c for (_, s), c in drawn.items() if s == sample]
    share = np.bincount(mine, minlength=count) / len(mine)
    # a fair draw strays by more than 5 of its deviations about never
    slack = 5 * np.sqrt(0.25 / len(mine))
    npt.assert_allclose(share, 1 / count, atol=slack)
    assert len(mine) == 200
  again, other = planner(store), planner(store, seed=4)
  assert [again.row(n) for n in range(3)] == [plan.row(n) for n in range(3)]
  assert [other.row(n) for n in range(3)] != [plan.row(n) for n in range(3)]


def test_a_store_of_version_1_is_read_and_planned_as_before(tmp_path):
  old = latents.open_store(pathlib.Path(__file__).parent / "store_v1")
  fresh = random_store.write(
    tmp_path, 3, sizes=((4, 4),), frames=(1, 2), text=(1, 4)
  )
  assert len(old) == 3
  for i in range(3):
    assert old.captions(i) == ["a clip"]
    for key, value in fresh[i].items():
      npt.assert_array_equal(old[i][key], value)
  for name in ("frames", "height", "width", "text"):
    npt.assert_array_equal(
      getattr(old.lengths, name), getattr(fresh.lengths, name)
    )
