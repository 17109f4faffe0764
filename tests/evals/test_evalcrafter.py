"""EvalCrafter's scores: the paper's Table 6 gives its Table 2."""

import numpy as np
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.evals import evalcrafter

# Pyramid Flow in Table 6
RAW = {
  "VQA_A": 86.09,
  "VQA_T": 88.31,
  "IS": 18.49,
  "clip_temp_score": 99.90,
  "warping_error": 0.0019,
  "face_consistency_score": 98.89,
  "action_score": 67.58,
  "motion_ac_score": 46.0,
  "flow_score": 1.79,
  "clip_score": 20.73,
  "blip_bleu": 23.29,
  "sd_score": 68.26,
  "detection_score": 69.55,
  "color_score": 47.74,
  "count_score": 56.31,
  "ocr_score": 68.55,
  "celebrity_id_score": 44.72,
}


def test_table_6_gives_table_2():
  found = evalcrafter.scores(RAW)
  published = {
    "visual": 67.94, "alignment": 57.0, "motion": 55.31, "temporal": 63.41
  }  # fmt: skip
  for name, value in published.items():
    # all of them are rounded to 0.01
    np.testing.assert_allclose(found[name], value, atol=0.01, err_msg=name)
  assert round(found["sum"]) == 244


def test_there_are_seventeen_metrics():
  assert len(evalcrafter.METRICS) == 17 and set(evalcrafter.METRICS) == set(RAW)


def test_missing_and_unknown_metrics_are_told():
  less = {k: v for k, v in RAW.items() if k != "IS"}
  with pytest.raises(ConfigError, match="IS missing; VQA unknown"):
    evalcrafter.scores({**less, "VQA": 1.0})


def test_fractions_in_place_of_percents_are_told():
  fractions = {name: value / 100 for name, value in RAW.items()}
  with pytest.raises(
    ConfigError, match=r"clip_temp_score is 0\.99.*in percent"
  ):
    evalcrafter.scores(fractions)
