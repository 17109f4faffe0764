"""Plans: every sample once an epoch, budgets kept, rows full and repeatable."""

import dataclasses
import pickle
import time

import numpy as np
import numpy.testing as npt
import pytest

from pyramid_jax.config import (
  ConfigError,
  FlowConfig,
  LatentDataConfig,
  Source,
)
from pyramid_jax.data import order, packing
from pyramid_jax.data.draws import Draws, segment_clips, unit_tokens
from pyramid_jax.data.latents import Lengths, NullPrompt
from pyramid_jax.flow import history

PATCH = 2


@dataclasses.dataclass
class FakeStore:
  """The part of a store that planning sees."""

  lengths: Lengths
  fingerprint: str = "a"
  null: NullPrompt = dataclasses.field(
    default_factory=lambda: NullPrompt(np.zeros((1, 4)), np.zeros(3))
  )

  def __len__(self):
    return len(self.lengths.frames)


def store(n, frames=(1, 9), sizes=((16, 16), (8, 24)), text=(1, 20), seed=0):
  rng = np.random.default_rng(seed)
  size = np.array(sizes)[rng.integers(len(sizes), size=n)]
  lengths = Lengths(
    rng.integers(*frames, n, endpoint=True),
    size[:, 0],
    size[:, 1],
    rng.integers(*text, n, endpoint=True),
  )
  return FakeStore(lengths, f"store {n} {frames} {seed}")


def data(stores=1, weights=None, **changes):
  weights = weights or (1.0,) * stores
  sources = tuple(Source(str(i), w) for i, w in enumerate(weights))
  settings = {
    "latent_tokens": 512,
    "text_tokens": 128,
    "segments": 32,
    "window": 64,
  }
  return LatentDataConfig(sources=sources, **(settings | changes))


def planner(stores=None, flow=None, seed=0, weights=None, **changes):
  stores = stores or [store(200)]
  config = data(len(stores), weights, **changes)
  return packing.Planner(stores, config, flow or FlowConfig(), PATCH, seed)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097])
def test_permutation_is_one(size):
  orders = [order.permute(np.arange(size), size, 7, k) for k in range(3)]
  for o in orders:
    npt.assert_array_equal(np.sort(o), np.arange(size))
  if size >= 16:
    assert not np.array_equal(orders[0], orders[1])


def test_permutation_of_a_huge_set_is_indexable():
  place = order.permute(np.arange(1000), 10**12, 3)
  assert len(np.unique(place)) == 1000
  # the mean of 1000 uniform places, within 5 standard errors
  npt.assert_allclose(place.mean() / 1e12, 0.5, atol=5 / 12**0.5 / 1000**0.5)


def test_hashes_are_uniform_and_never_change():
  u = order.uniform(1, 2, np.arange(100_000))
  assert u.min() >= 0
  assert u.max() < 1
  counts = np.histogram(u, 20, (0, 1))[0]
  # chi-squared with 19 degrees of freedom: 44 is exceeded once in 1000
  assert ((counts - 5000) ** 2 / 5000).sum() < 44
  assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.015
  # a plan made today must be the same tomorrow
  assert [int(order.integers(k, 5)) for k in (0, 1)] == HASHES
  npt.assert_array_equal(order.permute(np.arange(8), 8, 1), PERMUTED)


HASHES = [12303721270012094144, 6314841413777441128]
PERMUTED = [6, 0, 1, 7, 5, 2, 4, 3]


@pytest.mark.parametrize("weights", [(1.0,), (7.0, 1.0), (0.2, 0.3, 0.5)])
def test_every_epoch_of_every_source_shows_each_sample_once(weights):
  sizes = tuple(31 + 13 * i for i in range(len(weights)))
  mixture = order.Mixture(sizes, weights, 5)
  passes = [mixture.at(turn, np.arange(mixture.length)) for turn in range(7)]
  source, epoch, sample = map(np.concatenate, zip(*passes, strict=True))
  for s, size in enumerate(sizes):
    mine = source == s
    whole = int(mine.sum()) // size
    assert whole >= 1
    orders = [sample[mine & (epoch == e)] for e in range(whole)]
    for o in orders:
      npt.assert_array_equal(np.sort(o), np.arange(size))
  share = np.bincount(source) / len(source)
  # counts in a pass are rounded to whole samples
  npt.assert_allclose(share, np.array(weights) / sum(weights), atol=0.01)


def test_one_source_makes_a_pass_an_epoch():
  mixture = order.Mixture((50,), (1.0,))
  for turn in range(3):
    source, epoch, sample = mixture.at(turn, np.arange(50))
    npt.assert_array_equal(epoch, turn)
    npt.assert_array_equal(np.sort(sample), np.arange(50))


def test_a_source_of_weight_0_is_left_out():
  mixture = order.Mixture((50, 7), (1.0, 0.0))
  source, _, sample = mixture.at(0, np.arange(mixture.length))
  assert mixture.counts == (50, 0) and not source.any()
  npt.assert_array_equal(np.sort(sample), np.arange(50))


@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0, 0.0), (1.0,)])
def test_weights_that_make_no_mixture_are_told(weights):
  with pytest.raises(ConfigError, match="give 2, none negative and not all 0"):
    order.Mixture((5, 5), weights)


@pytest.mark.parametrize("history_kind", ["pyramid", "none"])
def test_planned_tokens_are_those_of_the_layout(history_kind):
  flow = FlowConfig(frames_per_unit=2, history=history_kind)
  table = unit_tokens(5, flow)
  for unit in range(5):
    for stage in range(3):
      clips = segment_clips(unit, stage, flow)
      layout = history.layout(clips, 3, 9, 16, 24, PATCH)
      assert table[unit, stage] * (16 * 24 // 4 // 16) == len(layout.frame)


def test_the_design_s_token_counts_are_reached():
  tokens = unit_tokens(31, FlowConfig()) * (3840 // 16)
  assert tokens[30].tolist() == [7440, 8880, 15360]
  full = unit_tokens(31, FlowConfig(history="none")) * (3840 // 16)
  assert full[30, 2] == 119_040


@pytest.mark.parametrize("clips", [1, 3])
def test_every_sample_comes_once_an_epoch_within_every_budget(clips):
  plan = planner(segments_per_clip=clips)
  config = plan.config
  seen = []
  for w in range(packing.BLOCK):
    window = plan.window(w)
    samples = window.samples
    assert len(window) == plan.window_rows and not window.left_out
    for r in range(len(window)):
      part = slice(*window.first[r : r + 2])
      picks = window.row(r)
      seen += [(p.epoch, p.sample) for p in picks]
      assert picks and all(len(p.choices) == clips for p in picks)
      assert samples.latent[part].sum() <= config.latent_tokens
      assert samples.text[part].sum() <= config.text_tokens
      assert len(picks) * clips <= config.segments
  # a block is 4096 samples in the order of 200 clips: 20 epochs and a rest
  assert len(seen) == len(set(seen)) == packing.BLOCK * config.window
  whole = [(e, i) for e in range(20) for i in range(200)]
  assert set(whole) <= set(seen)


def test_a_pick_is_what_was_measured():
  stores = [store(60), store(40, frames=(1, 1), seed=1)]
  plan = planner(stores, weights=(3.0, 1.0), segments_per_clip=2)
  window = plan.window(0)
  i = 0
  for r in range(len(window)):
    for pick in window.row(r):
      sizes = stores[pick.source].lengths
      at = pick.sample
      full = sizes.height[at] * sizes.width[at] // PATCH**2
      latent = text = 0
      for unit, stage, drop in pick.choices:
        assert 0 <= unit <= sizes.frames[at] - 1
        clips = history.clips(unit, stage, 1)
        latent += history.token_count(clips, full, 3)
        text += 1 if drop else sizes.text[at]
      assert (latent, text) == (
        window.samples.latent[i],
        window.samples.text[i],
      )
      i += 1
  assert {p.source for r in range(len(window)) for p in window.row(r)} == {0, 1}


def draws(stores, flow=None, **changes):
  config = data(len(stores), latent_tokens=10**6, **changes)
  lengths = [s.lengths for s in stores]
  return Draws(lengths, 1, config, flow or FlowConfig(), PATCH, 3)


def test_stages_units_and_drops_follow_their_weights():
  flow = FlowConfig(frames_per_unit=2)
  many = draws(
    [store(4000, frames=(8, 8))], flow, stage_weights=(2.0, 0.0, 1.0)
  )
  s = many.at(0, np.arange(4000))
  # four standard errors of a share of 4000
  tolerance = 4 * 0.5 / 4000**0.5
  npt.assert_allclose(
    np.bincount(s.stage.ravel()) / 4000, [2 / 3, 0, 1 / 3], atol=tolerance
  )
  # 8 frames: the first alone and three whole units of 2
  npt.assert_allclose(
    np.bincount(s.unit.ravel()) / 4000, [0.25] * 4, atol=tolerance
  )
  npt.assert_allclose(s.drop.mean(), 0.1, atol=tolerance)
  again = many.at(1, np.arange(4000))
  first, second = np.argsort(s.sample), np.argsort(again.sample)
  assert (s.stage[first] != again.stage[second]).mean() > 0.3  # 4 in 9


def test_images_have_only_the_first_unit():
  s = draws([store(50, frames=(1, 1))]).at(0, np.arange(50))
  npt.assert_array_equal(s.unit, 0)


def test_full_sequences_use_all_frames_up_to_the_limit():
  clips = store(100, frames=(1, 9))
  whole = draws([clips], FlowConfig(history="none"))
  s = whole.at(0, np.arange(100))
  npt.assert_array_equal(s.unit[:, 0], clips.lengths.frames[s.sample] - 1)
  short = draws([clips], FlowConfig(history="none"), max_units=3)
  s = short.at(0, np.arange(100))
  frames = np.minimum(clips.lengths.frames[s.sample], 3)
  npt.assert_array_equal(s.unit[:, 0], frames - 1)


def test_row_n_does_not_depend_on_who_asks_or_when():
  forwards, backwards = planner(), planner()
  rows = [forwards.row(n) for n in range(60)]
  assert [backwards.row(n) for n in range(59, -1, -1)][::-1] == rows
  assert planner(seed=1).row(0) != rows[0]
  assert forwards.locate(0) == (0, 0)
  assert forwards.locate(len(forwards.window(0))) == (1, 0)


def test_a_far_row_plans_nothing_before_it(monkeypatch):
  planned, cut = [], []
  plan, edges = packing.Planner._plan, packing.Planner._cut
  monkeypatch.setattr(
    packing.Planner, "_plan", lambda self, w: planned.append(w) or plan(self, w)
  )
  monkeypatch.setattr(
    packing.Planner, "_cut", lambda self, b: cut.append(b) or edges(self, b)
  )
  far = planner()
  far.row(10**8)
  assert planned == [10**8 // far.window_rows]
  assert cut == [0, planned[0] // packing.BLOCK]


def test_planners_are_pickled_with_what_all_rows_share(monkeypatch):
  plan = planner()
  row = plan.row(70)
  copy = pickle.loads(pickle.dumps(plan))
  monkeypatch.setattr(packing.bins, "rows_needed", None)  # not called again
  assert copy.row(70) == row


def test_a_window_without_room_says_how_many_samples_wait(caplog):
  plan = planner()
  plan.__dict__["window_rows"] = fewer = plan.window_rows - 4
  window = plan.window(0)
  assert len(window) == fewer and window.left_out > 0
  placed = len(window.samples.latent)
  assert placed + window.left_out == np.diff(plan._block(0).edges)[0]
  assert f"{window.left_out} of the " in caplog.text


def test_rows_are_shuffled_within_a_window():
  window = planner(window=200).window(0)
  most = np.maximum.reduceat(window.samples.latent, window.first[:-1])
  # packing takes the largest first, so before the shuffle no step goes up
  assert 0.3 < (np.diff(most) > 0).mean() < 0.7


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"latent_tokens": 100}, r"Clip \d+ of source 0 needs up to 1\d\d latent"),
    ({"text_tokens": 19}, "up to 20 text tokens; a row has 19"),
    ({"segments_per_clip": 2, "segments": 1}, "segments_per_clip is 2"),
    ({"stage_weights": (1.0, 1.0)}, "give 3 weights"),
    ({"stage_weights": (0.0, 0.0, 0.0)}, "not all 0"),
    ({"window": 0}, "window is 0"),
    ({"drop_prompt": 1.5}, "share from 0 to 1"),
    (
      {"stores": [store(9, sizes=((12, 16),))]},
      "height 12, not a multiple of 8",
    ),
  ],
)
def test_what_cannot_be_packed_is_named_before_anything_is_planned(
  change, message
):
  with pytest.raises(ConfigError, match=message):
    planner(**change)


def synthetic(rng, n, side, frames):
  """Clips of latents side[0] x side[1], prompts as long as captions are."""
  text = np.clip(rng.normal(62, 30, n).astype(int), 8, 128)
  sizes = [np.full(n, s) for s in (frames, *side)]
  return FakeStore(Lengths(*sizes, text), f"{side} {frames}")


@pytest.mark.parametrize(
  ("name", "images", "frames", "side"),
  [
    ("512 px images", 0, 1, (64, 64)),
    ("384p 5 s", 0, 16, (48, 80)),
    ("768p 10 s", 0, 31, (96, 160)),
    ("384p 5 s, 12.5% images", 0.125, 16, (48, 80)),
  ],
)
def test_rows_are_full(name, images, frames, side):
  """Fill of whole windows of 4096 with the budgets suggested by the data."""
  rng = np.random.default_rng(0)
  stores = [synthetic(rng, 8192, side, frames)]
  weights = (1.0,)
  if images:
    stores.append(synthetic(rng, 1024, side, 1))
    weights = (1 - images, images)
  config = dataclasses.replace(
    data(len(stores), weights), latent_tokens=16384, window=4096
  )
  text, segments = packing.suggest_budgets(stores, config, FlowConfig(), PATCH)
  assert (16384 + text) % 128 == 0
  config = dataclasses.replace(config, text_tokens=text, segments=segments)
  plan = packing.Planner(stores, config, FlowConfig(), PATCH, 0)
  start = time.process_time()
  plan.window(0)
  seconds = time.process_time() - start
  fill = plan.fill([0, 1])
  print(
    f"{name}: M {text}, S {segments}, fill {fill:.4f}, "
    f"{len(plan.window(0).samples.latent) / seconds:,.0f} samples/s"
  )
  assert fill >= 0.97
