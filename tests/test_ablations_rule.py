"""What decides the ablations: measures on known latents, and the rule."""

import math

import numpy as np
import pytest

from tests import ablation_scripts


@pytest.fixture(scope="module")
def scripts():
  """The benchmark's modules, by name."""
  return ablation_scripts.load()


def test_values_that_blocks_share_are_told_from_smooth_ones(scripts):
  neighbours = scripts["measure"].neighbours
  rng = np.random.default_rng(0)
  coarse = rng.standard_normal((64, 2, 4, 4, 3))
  blocks = coarse.repeat(2, 2).repeat(2, 3)
  assert neighbours(blocks)["inside"] == pytest.approx(1, abs=1e-12)
  error = 5 / np.sqrt(2 * 64 * 2 * 12 * 3)  # 5 standard errors of what differs
  np.testing.assert_allclose(neighbours(blocks)["across"], 0, atol=error)
  # the mean of every 2 x 2: neighbours share half, wherever they lie
  x = rng.standard_normal((256, 2, 9, 9, 3))
  smooth = x[:, :, 1:, 1:] + x[:, :, 1:, :-1] + x[:, :, :-1, 1:]
  found = neighbours(smooth + x[:, :, :-1, :-1])
  np.testing.assert_allclose([*found.values()], 0.5, atol=0.02)


def test_straight_paths_have_no_spread_and_bent_ones_that_of_their_law(scripts):
  straightness = scripts["measure"].straightness
  steps = scripts["measure"].REFERENCE
  ends = [(np.zeros((2, 1, 2, 2, 4)),)]  # one unit of one stage, 4 tokens
  v = np.random.default_rng(0).standard_normal((2, 4, 4))
  history = np.full((2, 3, 4), np.nan)  # stands before the target
  whole = lambda v: np.concatenate([history, v], 1)
  assert straightness(ends, [whole(v)] * steps, 1) == pytest.approx([0.0])
  shares = scripts["measure"].step_shares(steps)
  np.testing.assert_allclose(shares.sum(), 1, atol=1e-12)
  signs = np.where(np.arange(steps) % 2, 3.0, -1.0)  # v, and three times back
  mean = shares @ signs
  expected = shares @ (signs - mean) ** 2 / mean**2
  found = straightness(ends, [whole(s * v) for s in signs], 1)
  np.testing.assert_allclose(found, [expected], rtol=1e-12)


@pytest.mark.parametrize(
  "ours, others, smaller, verdict",
  [
    ([1, 2, 3], [4, 5, 6], True, "shown"),
    ([1, 2, 3], [4, 5, 6], False, "the opposite is shown"),
    ([1, 2, 4], [4, 5, 6], True, "not decided"),
    ([1, 2], [4, 5, 6], True, "not measured"),
  ],
)
def test_a_claim_is_shown_if_no_two_seeds_contradict_it(
  scripts, ours, others, smaller, verdict
):
  measure = scripts["studies"].Measure(lambda r: r, smaller=smaller)
  assert scripts["rule"].verdict(measure, ours, others, 3) == verdict


def test_seeds_are_compared_one_by_one_where_both_have_them(scripts):
  rule = scripts["rule"]
  pairs = lambda *values, smaller=True: rule.pairs(
    scripts["studies"].Measure(lambda r: r, smaller=smaller),
    *(dict(enumerate(x)) for x in values),
  )
  assert pairs([1, 5, 2], [2, 4, 3]) == "; better in 2 of 3 seeds"
  assert pairs([1, 5], [2, 4], smaller=False) == "; better in 1 of 2 seeds"
  assert pairs([1, 1], [1, 2]) == "; better in 1 of 2 seeds"  # not by a tie
  assert pairs([1], [2, 4]) == "; better in 1 of 1 seeds"
  assert pairs([], []) == pairs([1], []) == ""
  less = scripts["studies"].Measure(lambda r: r)
  found = rule.pairs(less, {0: 1, 2: 5}, {1: 0, 2: 6})  # not 1 with 0
  assert found == "; better in 1 of 1 seeds"


@pytest.mark.parametrize(
  "verdicts, outcome",
  [
    ({"A": ["shown", "not decided"]}, "reproduced"),
    ({"A": ["not decided", "the opposite is shown"]}, "not reproduced"),
    (
      {"A": ["shown", "the opposite is shown"]},
      "not decided: measures disagree",
    ),
    ({"A": ["not decided"]}, "not decided"),
    ({"A": ["shown"], "B": ["not decided"]}, "not decided"),  # not against all
    ({"A": ["shown"], "B": ["not measured"]}, "not measured"),
  ],
)
def test_a_study_is_reproduced_if_some_measure_shows_it_and_none_the_opposite(
  scripts, verdicts, outcome
):
  rule = scripts["rule"]
  line = lambda measure, other, verdict: rule.Compared(
    measure, other, verdict, "", "", ""
  )
  lines = [line("x", k, verdict) for k, v in verdicts.items() for verdict in v]
  assert rule.outcome(lines) == outcome
  for word in ("shown", "not decided", "the opposite is shown"):
    distance = line("Frechet distance", "A", word)
    assert rule.outcome([*lines, distance]) == outcome  # it has no part


def test_only_what_a_claim_is_about_decides_it(scripts):
  rule, studies = scripts["rule"], scripts["studies"]
  about = {
    "flicker": {"a": 2, "b": 1, "c": 3},
    "color drift": {"a": 2, "b": 2, "c": 2},
    "shape drift": {"a": 2, "b": 1, "c": 1},
  }
  found = {
    v: [
      {"seed": seed, "over compute": {"9": {k: x[v] for k, x in about.items()}}}
      for seed in range(3)
    ]
    for v in "abc"
  }
  study = lambda *claimed, **more: studies.Study(
    "", "", "", ("a", "b", "c"), (), claimed, **more
  )
  said = lambda study: rule.outcome(rule.comparisons(study, found, 3))
  disagree = "not decided: measures disagree"
  assert said(study("flicker", "shape drift")) == disagree
  assert said(study("shape drift")) == "not reproduced"
  also = {"also": ("flicker", "shape drift")}
  assert said(study("color drift", **also)) == "not decided"
  assert said(study(**also)) == "no claim"
  assert said(study("flicker", against=("b",))) == "not reproduced"
  assert said(study("flicker", against=("c",))) == "reproduced"
  lines = rule.comparisons(study("color drift", **also), found, 3)
  # 1 measure, with 2 others, of 20 ways to order 3 and 3
  assert len(lines) == 6 and rule.by_chance(lines, 3) == 2 / 20


def test_blocks_are_those_above_true_latents(scripts):
  measure = scripts["studies"].MEASURES["blocks above true"]
  assert measure.smaller
  latents = lambda inside, across: {"inside": inside, "across": across}

  def read(inside, across):
    parts = {"blocks": latents(inside, across),
             "blocks of true clips": latents(0.2, 0.2)}  # fmt: skip
    return measure.of({"over compute": {"9": parts}})

  assert read(0.2, 0.2) == read(0.9, 0.9) == 0  # smooth, but no blocks
  assert read(1.0, 0.5) == 1  # nothing else
  assert read(0.5, 0.75) == -1  # fewer than in true ones


def record(flops, *scores, fill=1.0, seed=0):
  """Of two steps with a score each, in rows of 2 x (200 + 50) places."""
  work = {"flops": flops, "fill": fill, "rows": 2, "latent tokens": 200,
          "text tokens": 50}  # fmt: skip
  steps = zip(("100", "200"), map(float, scores), strict=True)
  parts = {step: {"frechet": score, "work": work} for step, score in steps}
  return {"seed": seed, "over compute": parts}


def test_at_equal_compute_scores_are_on_the_line_between_two_steps(scripts):
  rule = scripts["rule"]
  found = {
    "a": [record(1e10, 4.0, 2.0, fill=1.0)],
    "b": [record(2e10, 3.0, 1.0, fill=0.5)],
  }
  spent = [rule.spent(found["a"][0], of) for of in rule.BUDGETS]
  assert spent == [[1.0, 2.0], [0.05, 0.1]]
  middle = rule.at_spent(found, ("a", "b"), "TFLOP", 1.5)
  values = lambda of, v: rule.values(of, v, "Frechet distance")
  assert values(middle, "a") == {0: 3.0}
  end = rule.at_spent(found, ("a", "b"), "TFLOP", 2.0)
  # b's first step costs as much as a's second
  assert [values(end, v) for v in "ab"] == [{0: 2.0}, {0: 3.0}]
  tokens = rule.at_spent(found, ("a", "b"), "M tokens", 0.05)
  # of rows of as many places, half of b's are filled
  assert [values(tokens, v) for v in "ab"] == [{0: 4.0}, {0: 1.0}]
  first = rule.at_step(found, "100")
  assert values(first, "b") == {0: 3.0}


def test_scores_are_compared_only_where_every_seed_has_them(scripts):
  rule = scripts["rule"]
  found = {
    v: [record(flops, 0, 0, seed=i) for i, flops in enumerate(of)]
    for v, of in {"a": (1.0e10, 1.1e10), "b": (1.0e10, 1.5e10)}.items()
  }
  assert rule.points(found, ("a", "b"), "TFLOP") == [1.5, 2.0]
  found["b"].append(record(3e10, 0, 0))
  assert rule.points(found, ("a", "b"), "TFLOP") == []


def test_long_clips_are_followed_from_those_right_at_first(scripts):
  measures = scripts["studies"].MEASURES
  window = lambda n, kept, still_n, still: {
    "n": n, "kept": kept, "still n": still_n, "still": still,
  }  # fmt: skip
  windows = [
    window(32, 0.25, 8, 1.0),
    window(20, 0.2, 6, 0.5),
    window(10, 0.1, 2, 0.0),
    window(4, 0.0, 0, float("nan")),
  ]
  record = {"long": {"windows": windows}}
  assert measures["still later"].of(record) == pytest.approx(3 / 8)
  assert measures["of right ones"].of(record) == 8
  assert measures["kept later"].of(record) == pytest.approx(5 / 34)
  assert measures["quarters later"].of(record) == 34


def test_a_change_of_color_counts_by_the_clips_it_was_read_in(scripts):
  later = scripts["studies"].MEASURES["color change later"].of
  window = lambda n, change, **more: {"n": n, "color change": change, **more}
  none = {"color change n": math.nan}  # as an earlier version has it
  parts = [(9, 8.0, 9), (6, 10.0, 1), (2, 40.0, 2), (1, math.nan, 0)]
  record = lambda *windows: {"long": {"windows": windows}}
  counted = record(*(window(*p, **{"color change n": n}) for *p, n in parts))
  assert later(counted) == pytest.approx((10 + 2 * 40) / 3)
  for more in ({}, none):
    inside = record(*(window(*p, **more) for *p, _ in parts))
    assert later(inside) == pytest.approx((6 * 10 + 2 * 40) / 8)
    assert not scripts["studies"].counts_colors(inside)
  assert scripts["studies"].counts_colors(counted)
