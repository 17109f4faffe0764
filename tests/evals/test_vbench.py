"""VBench's scores: published rows come out, partial ones are named."""

import numpy as np
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.evals import vbench
from pyramid_jax.generate import benchmark

# Table 5 of the paper: (quality, semantic, total) of Table 1, then the raw row
# in the table's order; T2V-Turbo and CogVideoX-2B as VBench's leaderboard has
# them.
PUBLISHED = {
  "Gen-2": (
    (82.47, 73.03, 80.58),
    (97.61, 97.61, 99.56, 99.58, 18.89, 66.96, 67.42, 90.92, 55.47, 89.20,
     89.49, 66.91, 48.91, 19.34, 24.12, 26.17),
  ),
  "Pika 1.0": (
    (82.92, 71.77, 80.69),
    (96.94, 97.36, 99.74, 99.50, 47.50, 62.04, 61.87, 88.72, 43.08, 86.20,
     90.57, 61.03, 49.83, 22.26, 24.22, 25.94),
  ),
  "CogVideoX-5B": (
    (82.75, 77.04, 81.61),
    (96.23, 96.52, 98.66, 96.92, 70.97, 61.98, 62.90, 85.23, 62.11, 99.40,
     82.81, 66.35, 53.20, 24.91, 25.38, 27.59),
  ),
  "Kling": (
    (83.38, 75.68, 81.85),
    (98.33, 97.60, 99.30, 99.40, 46.94, 61.21, 65.62, 87.24, 68.05, 93.40,
     89.90, 73.03, 50.86, 19.62, 24.17, 26.42),
  ),
  "Gen-3 Alpha": (
    (84.11, 75.17, 82.32),
    (97.10, 96.62, 98.61, 99.23, 60.14, 63.34, 66.82, 87.81, 53.64, 96.40,
     80.90, 65.09, 54.57, 24.31, 24.71, 26.69),
  ),
  "Open-Sora Plan v1.1": (
    (80.91, 66.38, 78.00),
    (95.73, 96.73, 99.03, 98.28, 47.72, 56.85, 62.28, 76.30, 40.35, 86.80,
     89.19, 53.11, 27.17, 22.90, 23.87, 26.52),
  ),
  "Open-Sora 1.2": (
    (81.35, 73.39, 79.76),
    (96.75, 97.61, 99.53, 98.50, 42.39, 56.85, 63.34, 82.22, 51.83, 91.20,
     90.08, 68.56, 42.44, 23.95, 24.54, 26.85),
  ),
  "VideoCrafter2": (
    (82.20, 73.42, 80.44),
    (96.85, 98.22, 98.41, 97.73, 42.50, 63.13, 67.22, 92.55, 40.66, 95.00,
     92.92, 35.86, 55.29, 25.13, 25.84, 28.23),
  ),
  "T2V-Turbo": (
    (82.57, 74.76, 81.01),
    (96.28, 97.02, 97.48, 97.34, 49.17, 63.04, 72.49, 93.96, 54.65, 95.20,
     89.90, 38.67, 55.58, 24.42, 25.51, 28.16),
  ),
  "CogVideoX-2B": (
    (82.18, 75.83, 80.91),
    (96.78, 96.63, 98.89, 97.73, 59.86, 60.82, 61.68, 83.37, 62.63, 98.00,
     79.41, 69.90, 51.14, 24.80, 24.36, 26.66),
  ),
  "Pyramid Flow": (
    (84.75, 69.62, 81.72),
    (96.95, 98.06, 99.49, 99.12, 64.63, 63.26, 65.01, 86.67, 50.71, 85.60,
     82.87, 59.53, 43.20, 20.91, 23.09, 26.23),
  ),
}  # fmt: skip
PYRAMID = dict(
  zip(
    vbench.DIMENSIONS,
    np.array(PUBLISHED["Pyramid Flow"][1]) / 100,
    strict=True,
  )
)


@pytest.mark.parametrize("published, raw", PUBLISHED.values(), ids=PUBLISHED)
def test_published_rows_give_their_published_scores(published, raw):
  row = dict(zip(vbench.DIMENSIONS, np.array(raw) / 100, strict=True))
  found = vbench.scores(row)
  assert found.missing == ()
  # rows and scores are rounded to 0.01 percent
  np.testing.assert_allclose(
    (found.quality, found.semantic, found.total), published, atol=0.01
  )


def test_the_extremes_are_0_and_100():
  ends = vbench.DIMENSIONS.items()
  high = vbench.scores({name: d.high for name, d in ends})
  low = vbench.scores({name: d.low for name, d in ends})
  np.testing.assert_allclose(
    [low.quality, low.semantic, low.total], 0, atol=1e-12
  )
  np.testing.assert_allclose([high.quality, high.semantic, high.total], 100)


def test_scores_without_a_dimension_are_partial():
  raw = {k: v for k, v in PYRAMID.items() if k != "scene"}
  found, whole = vbench.scores(raw), vbench.scores(PYRAMID)
  assert found.missing == ("scene",)
  assert found.quality == whole.quality and found.semantic != whole.semantic
  quality, semantic, total = str(found).splitlines()
  assert "partial" not in quality
  assert semantic.endswith("(partial)") and total.endswith("(partial)")


def test_a_group_that_was_not_measured_has_no_score_and_no_total():
  found = vbench.scores({"scene": 0.4})
  assert found.quality is None and found.total is None
  assert "not measured" in str(found)


def test_prompts_are_read_of_the_dimensions_that_are_scored():
  assert tuple(vbench.DIMENSIONS) == benchmark.DIMENSIONS
  assert benchmark.STATIC == vbench.FLICKERING


def test_unknown_dimensions_and_impossible_values_are_told():
  with pytest.raises(ConfigError, match="'scenes' is no .*did you mean scene"):
    vbench.scores({"scenes": 0.4})
  with pytest.raises(ConfigError, match="scene is 43.2; .* within 0 and 1"):
    vbench.scores({"scene": 43.2})
  assert (
    benchmark.check_dimension("Temporal flickering") == "temporal_flickering"
  )


def test_flickering_is_one_minus_the_mean_step():
  frames = np.zeros((4, 2, 2, 3), np.uint8)
  assert vbench.temporal_flickering(frames) == 1
  frames[1::2] = 255  # down as well as up
  assert vbench.temporal_flickering(frames) == 0
  frames[1::2] = 51
  np.testing.assert_allclose(vbench.temporal_flickering(frames), 0.8)
  with pytest.raises(ConfigError, match="1 frame cannot flicker"):
    vbench.temporal_flickering(frames[:1])
