"""EvalCrafter (arXiv:2310.11440): seventeen metrics to four scores.

Each score is a linear fit to what people preferred. Coefficients are those of
`eval_from_metrics.py` of github.com/evalcrafter/EvalCrafter; metrics are in the
units that it prints, which are those of the published tables.
"""

from collections.abc import Mapping

from pyramid_jax.config import ConfigError

# of the metrics as fractions; where a smaller one is better, of 1 - metric
VISUAL = {"VQA_A": 0.03004555, "VQA_T": 0.02887537, "IS": -0.01382558}
ALIGNMENT = {
  "clip_score": -0.0701577,
  "blip_bleu": 0.02561424,
  "sd_score": 0.05566109,
  "detection_score": 0.0173974,
  "color_score": -0.020954,
  "count_score": 0.03069167,
  "ocr_score": 0.00372351,
  "celebrity_id_score": 0.22686202,
}
MOTION = {
  "action_score": -0.01641512,
  "motion_ac_score": -0.01340959,
  "flow_score": -0.10517075,
}
TEMPORAL = {
  "clip_temp_score": 2.92492244,
  "warping_error": 0.45475678,
  "face_consistency_score": 0.17561504,
}
# the intercept of text-video alignment is already that of 0 to 1, the others
# are of 0 to 0.2, as all coefficients are
SCORES = {
  "visual": (VISUAL, 5 * 0.08707462696457707),
  "alignment": (ALIGNMENT, -0.30683181901390977),
  "motion": (MOTION, 5 * 0.1297562020899355),
  "temporal": (TEMPORAL, 5 * -3.42274050899774),
}
METRICS = tuple(name for fit, _ in SCORES.values() for name in fit)
SMALLER_IS_BETTER = ("warping_error", "ocr_score", "celebrity_id_score")
FRACTIONS = ("warping_error",)  # all others are printed in percent


def scores(metrics: Mapping[str, float]) -> dict[str, float]:
  """Visual, alignment, motion and temporal score, and their sum.

  Args:
    metrics: all of `METRICS`, as published: in percent, the warping error as a
      fraction.

  Raises:
    ConfigError: a metric is missing or unknown, or they are fractions.
  """
  missing = [name for name in METRICS if name not in metrics]
  unknown = [name for name in metrics if name not in METRICS]
  if missing or unknown:
    raise ConfigError(
      "EvalCrafter's scores need all its metrics: "
      + "; ".join(
        f"{', '.join(names)} {what}"
        for names, what in ((missing, "missing"), (unknown, "unknown"))
        if names
      )
      + "."
    )

  # of any clips near 100; without a percent it would lead far below 0
  if metrics["clip_temp_score"] <= 1:
    raise ConfigError(
      f"clip_temp_score is {metrics['clip_temp_score']:g}, a fraction; give "
      "metrics as EvalCrafter prints them, in percent but for "
      f"{', '.join(FRACTIONS)}."
    )

  def fraction(name: str) -> float:
    value = metrics[name] / (1 if name in FRACTIONS else 100)
    return 1 - value if name in SMALLER_IS_BETTER else value

  result = {
    score: 100 * (5 * sum(c * fraction(n) for n, c in fit.items()) + intercept)
    for score, (fit, intercept) in SCORES.items()
  }
  return {**result, "sum": sum(result.values())}
