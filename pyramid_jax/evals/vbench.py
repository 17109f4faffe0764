"""VBench (arXiv:2311.17982): raw dimensions to quality, semantic and total.

A raw value is scaled by the extremes of its dimension; quality and semantic are
weighted means of the scaled values, the total is four parts quality and one
part semantic. Extremes and weights are those of `scripts/constant.py` of
github.com/Vchitect/VBench.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pyramid_jax.config import ConfigError
from pyramid_jax.generate.benchmark import check_dimension


@dataclasses.dataclass(frozen=True)
class Dimension:
  """One of the sixteen.

  Attributes:
    group: "quality" or "semantic".
    needs: the network that VBench measures it with, and its weights.
    low: raw value that counts as 0.
    high: raw value that counts as 1.
    weight: in its group.
  """

  group: str
  needs: str
  low: float = 0.0
  high: float = 1.0
  weight: float = 1.0


CLIP_B = "CLIP ViT-B/32 (ViT-B-32.pt)"
GRIT = "GRiT (grit_b_densecap_objectdet.pth)"
VICLIP = "ViCLIP (ViClip-InternVid-10M-FLT.pth)"
FLICKERING = "temporal_flickering"
DIMENSIONS = {
  "subject_consistency": Dimension(
    "quality", "DINO ViT-B/16 (dino_vitbase16_pretrain.pth)", 0.1462
  ),
  "background_consistency": Dimension("quality", CLIP_B, 0.2615),
  FLICKERING: Dimension(
    "quality", "nothing: pyramid-score flicker measures it", 0.6293
  ),
  "motion_smoothness": Dimension("quality", "AMT-S (amt-s.pth)", 0.706, 0.9975),
  "dynamic_degree": Dimension("quality", "RAFT (raft-things.pth)", weight=0.5),
  "aesthetic_quality": Dimension(
    "quality", "CLIP ViT-L/14 (ViT-L-14.pt) and LAION's aesthetic predictor"
  ),
  "imaging_quality": Dimension(
    "quality", "MUSIQ (musiq_spaq_ckpt-358bb6af.pth)"
  ),
  "object_class": Dimension("semantic", GRIT),
  "multiple_objects": Dimension("semantic", GRIT),
  "human_action": Dimension(
    "semantic", "UMT (l16_ptk710_ftk710_ftk400_f16_res224.pth)"
  ),
  "color": Dimension("semantic", GRIT),
  "spatial_relationship": Dimension("semantic", GRIT),
  "scene": Dimension(
    "semantic", "Tag2Text (tag2text_swin_14m.pth)", high=0.8222
  ),
  "appearance_style": Dimension("semantic", CLIP_B, 0.0009, 0.2855),
  "temporal_style": Dimension("semantic", VICLIP, high=0.364),
  "overall_consistency": Dimension("semantic", VICLIP, high=0.364),
}
PARTS = {"quality": 4.0, "semantic": 1.0}  # of the total


@dataclasses.dataclass(frozen=True)
class Scores:
  """In percent; None where no dimension of the group was measured.

  Attributes:
    quality, semantic: weighted means over the dimensions that there are.
    total: of both.
    missing: dimensions that were not measured; with any, scores that they
      belong to are partial and compare with no published one.
  """

  quality: float | None
  semantic: float | None
  total: float | None
  missing: tuple[str, ...]

  def __str__(self) -> str:
    groups = {DIMENSIONS[name].group for name in self.missing}
    lines = []
    for name in (*PARTS, "total"):
      value = getattr(self, name)
      partial = name in groups or (name == "total" and groups)
      text = "not measured"
      if value is not None:
        text = f"{value:.2f}{' (partial)' if partial else ''}"
      lines.append(f"{name:<24}{text}")
    return "\n".join(lines)


def normalised(raw: Mapping[str, float]) -> dict[str, float]:
  """Raw values, fractions, scaled to 0 at `low` and 1 at `high`."""
  return {
    name: (value - DIMENSIONS[name].low)
    / (DIMENSIONS[name].high - DIMENSIONS[name].low)
    for name, value in raw.items()
  }


def scores(raw: Mapping[str, float]) -> Scores:
  """Quality, semantic and total of raw values by dimension, as fractions.

  Raises:
    ConfigError: an unknown dimension, or a value outside of [0, 1].
  """
  raw = {check_dimension(name): value for name, value in raw.items()}
  for name, value in raw.items():
    if not 0 <= value <= 1:
      raise ConfigError(f"{name} is {value}; a raw value is within 0 and 1.")
  scaled = normalised(raw)
  means: dict[str, float | None] = {}
  for group in PARTS:
    names = [n for n in scaled if DIMENSIONS[n].group == group]
    weights = [DIMENSIONS[n].weight for n in names]
    means[group] = (
      100 * float(np.average([scaled[n] for n in names], weights=weights))
      if names
      else None
    )
  total = None
  if None not in means.values():
    total = float(np.average([*means.values()], weights=[*PARTS.values()]))
  missing = tuple(n for n in DIMENSIONS if n not in raw)
  return Scores(means["quality"], means["semantic"], total, missing)


def table(raw: Mapping[str, float]) -> str:
  """Raw and scaled values in percent; of missing ones what they need."""
  scaled, lines = normalised(raw), [f"{'':<24}{'raw':>7}{'scaled':>8}"]
  for name, dimension in DIMENSIONS.items():
    if name in raw:
      values = f"{100 * raw[name]:7.2f}{100 * scaled[name]:8.2f}"
      lines.append(f"{name:<24}{values}")
    else:
      lines.append(f"{name:<24}missing; needs {dimension.needs}")
  return "\n".join(lines)


def temporal_flickering(frames_THW3: np.ndarray) -> float:
  """VBench's raw value of one clip that stands still; 1: nothing flickers.

  One minus the mean absolute difference of neighbouring frames, of uint8
  values over 255.

  Raises:
    ConfigError: fewer than two frames.
  """
  if len(frames_THW3) < 2:
    raise ConfigError(
      f"a clip of {len(frames_THW3)} frame cannot flicker; 2 are needed."
    )
  steps = [
    np.abs(b.astype(np.int16) - a).mean()
    for a, b in zip(frames_THW3[:-1], frames_THW3[1:], strict=True)
  ]
  return 1 - float(np.mean(steps)) / 255
