"""Clips against their originals, frame by frame.

Legend: T frames, H W space, C colours; pixels in [-1, 1], as models see them.
What is measured is clipped to that range first, as a screen would.
"""

import numpy as np
from skimage.metrics import structural_similarity

WINDOW = 11  # pixels a side that the SSIM compares


def psnr(clip_THWC: np.ndarray, original_THWC: np.ndarray) -> float:
  """Peak signal-to-noise ratio of all pixels in dB; infinity if all equal."""
  error = np.square(_shown(clip_THWC) - original_THWC).mean(dtype=np.float64)
  with np.errstate(divide="ignore"):
    return float(10 * np.log10(4 / error))


def ssim(clip_THWC: np.ndarray, original_THWC: np.ndarray) -> float:
  """Structural similarity, mean over frames and colours; 1 if all equal.

  With a Gaussian window of sigma 1.5 (10.1109/TIP.2003.819861); NaN for frames
  smaller than its 11 x 11 pixels.
  """
  if min(clip_THWC.shape[1:3]) < WINDOW:
    return float("nan")
  # means of opposite sign would count as unlike: black is 0, not -1
  clips = ((x + 1) / 2 for x in (_shown(clip_THWC), original_THWC))
  scores = [
    structural_similarity(
      a, b, data_range=1.0, channel_axis=-1, gaussian_weights=True,
      use_sample_covariance=False,
    )
    for a, b in zip(*clips, strict=True)
  ]  # fmt: skip
  return float(np.mean(scores))


def flicker(clip_THWC: np.ndarray) -> float:
  """Mean absolute difference of neighbouring frames; NaN for one frame.

  A reconstruction flickers if this is above that of its original: motion is in
  both.
  """
  if len(clip_THWC) < 2:
    return float("nan")
  return float(np.abs(np.diff(_shown(clip_THWC), axis=0)).mean())


def error_map(clip_THWC: np.ndarray, original_THWC: np.ndarray) -> np.ndarray:
  """Mean absolute error over colours, [T, H, W], 0 to 1: black for white."""
  return np.abs(_shown(clip_THWC) - original_THWC).mean(-1) / 2


def _shown(clip_THWC: np.ndarray) -> np.ndarray:
  return np.clip(clip_THWC, -1, 1)
