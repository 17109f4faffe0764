"""Rows of a run whose mixture changes, and what makes other rows of them."""

import json
import shutil

import pytest

from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import (
  ConfigError,
  FlowConfig,
  LatentDataConfig,
  Period,
  Source,
)
from pyramid_jax.data import latents
from pyramid_jax.data.curriculum import Curriculum
from pyramid_jax.train.resume import require_same_rows
from tests.data import random_store
from tests.data.test_packing import PATCH, data, store

VIDEOS, IMAGES = store(120, frames=(4, 9)), store(40, frames=(1, 1), seed=1)
PERIODS = (
  Period(steps=3, max_units=1, weights=(0.0, 1.0)),
  Period(steps=5, max_units=3, weights=(7.0, 1.0)),
  Period(),
)


def curriculum(periods=PERIODS, stores=(VIDEOS, IMAGES), seed=0, **changes):
  config = data(len(stores), rows=8, periods=periods, **changes)
  return Curriculum(stores, config, FlowConfig(), PATCH, seed)


def test_each_period_has_its_own_lengths_and_mixture():
  plan = curriculum()
  picks = [plan.row(n) for n in range(200)]
  units = [max(c.unit for p in row for c in p.choices) for row in picks]
  assert {p.source for row in picks[:24] for p in row} == {1}
  assert set(units[:24]) == {0}
  assert max(units[24:64]) == 2
  assert max(units[64:]) == 8
  middle = [p.source for row in picks[24:64] for p in row]
  late = [p.source for row in picks[64:] for p in row]
  # shares of 1/8 and 1/2, within four standard errors
  assert abs(sum(middle) / len(middle) - 1 / 8) < 4 * 0.33 / len(middle) ** 0.5
  assert abs(sum(late) / len(late) - 1 / 2) < 4 * 0.5 / len(late) ** 0.5


def test_a_row_does_not_depend_on_who_asks_or_when():
  plan, other = curriculum(), curriculum()
  places = [0, 23, 24, 63, 64, 500, 10**7]
  rows = [plan.row(n) for n in places]
  assert [other.row(n) for n in places[::-1]][::-1] == rows
  assert curriculum(seed=1).row(30) != plan.row(30)


def test_a_later_period_changes_no_row_before_it():
  plan = curriculum()
  longer = curriculum((*PERIODS[:2], Period(steps=9), Period(max_units=2)))
  assert [plan.row(n) for n in range(70)] == [longer.row(n) for n in range(70)]


def test_what_a_period_leaves_out_need_not_fit_its_rows():
  images = Period(steps=3, weights=(0.0, 1.0))
  short = Period(steps=3, max_units=1)
  longest = curriculum((short,)).planners[0].draws
  room = int((longest.tokens.max() * longest.coarsest).max())
  curriculum((images, short), latent_tokens=room)
  with pytest.raises(ConfigError, match="of source 0 needs up to .* max_units"):
    curriculum((images, Period()), latent_tokens=room)


def test_without_periods_the_run_is_one_plan():
  plan = curriculum(())
  assert plan.row(70) == plan.planners[0].row(70)


@pytest.mark.parametrize(
  ("periods", "message"),
  [
    (
      (Period(weights=(1.0,)),),
      r"periods\[0\]\.weights is \(1\.0,\); give one",
    ),
    ((Period(), Period(weights=(0.0, 0.0))), "not all 0"),
    ((Period(max_units=-1),), "max_units is -1"),
  ],
)
def test_periods_that_cannot_be_are_told(periods, message):
  with pytest.raises(ConfigError, match=message):
    curriculum(periods)


def changed(new, old=None):
  """What a run is told that would continue with other rows."""
  with pytest.raises(CheckpointError) as error:
    require_same_rows((old or curriculum()).settings, new.settings, "run", 70)
  return str(error.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"window": 65}, "config.latents.window: 64 -> 65"),
    ({"latent_tokens": 520}, "config.latents.latent_tokens: 512 -> 520"),
    ({"weights": (2.0, 1.0)}, "'weight': 1.0} -> {'store': 'store 120 (4, 9)"),
    (
      {"stores": (VIDEOS, VIDEOS)},
      "config.latents.sources[1]: {'store': 'store ",
    ),
    (
      {"stores": (VIDEOS, IMAGES, VIDEOS), "periods": ()},
      "config.latents.sources[2]: none -> {'store': 'store 120 (4, 9)",
    ),
    (
      {"stores": (VIDEOS,), "periods": ()},
      "sources[1]: {'store': 'store 40 (1,",
    ),
    ({"periods": PERIODS[1:]}, "config.latents.periods: [{"),
    ({"seed": 1}, "config.seed: 0 -> 1"),
  ],
)
def test_what_makes_other_rows_is_named_with_old_and_new(change, message):
  error = changed(curriculum(**change))
  assert message in error
  assert error.startswith("run was trained on other rows (its -> now): ")
  assert "--config.train.new_data=True" in error
  assert "those of step 70 in the new order" in error


def test_loaders_may_change_and_the_plan_of_an_older_version_may_not():
  same = curriculum(workers=3).settings
  assert require_same_rows(curriculum().settings, same, "run", 70) == []
  with pytest.raises(CheckpointError, match="that of an earlier version"):
    require_same_rows("3fa2", same, "run", 70)


def test_a_moved_store_is_the_same_and_one_encoded_again_is_not(tmp_path):
  def of(name):
    config = LatentDataConfig(
      sources=(Source(str(tmp_path / name)),), latent_tokens=256,
      text_tokens=40, segments=12, window=32,
    )  # fmt: skip
    stores = latents.open_stores([tmp_path / name])
    return Curriculum(stores, config, FlowConfig(), PATCH, 0)

  random_store.write(tmp_path / "first", 8)
  shutil.copytree(tmp_path / "first", tmp_path / "moved")
  random_store.write(tmp_path / "again", 8, seed=1)
  assert of("first").settings == of("moved").settings
  message = changed(of("again"), of("first"))
  assert "config.latents.sources[0]: {'store': '" in message


def test_settings_are_what_json_gives_back():
  settings = curriculum().settings
  assert json.loads(json.dumps(settings)) == settings
