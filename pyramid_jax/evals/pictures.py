"""Clips beside their reconstructions and where they differ, in one picture.

Legend: T frames, H W pixels; clips in [-1, 1].
"""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw

from pyramid_jax.data.lettering import draw_text
from pyramid_jax.evals import pixels

SHOWN = 5  # frames of a clip, evenly over its length
SIDE = 128  # pixels of a shown frame's longer side
WHITE = 0.25  # error that is shown white, of the range of pixels
# pixels: between frames, of a line, of row names, of letters
GAP, LINE, LABEL, LETTERS = 4, 20, 108, 13
EXPLAINED = f"error: black 0, red, yellow, white {WHITE:.0%} of the range"


def comparison(
  originals: Sequence[np.ndarray], reconstructions: Sequence[np.ndarray]
) -> np.ndarray:
  """uint8 [H, W, 3]: for each clip a row of its frames, of what became of them,
  and of error maps, with the clip's PSNR.

  Args:
    originals: clips [T, H, W, 3], all of one shape.
    reconstructions: likewise.
  """
  times = _times(len(originals[0]))
  blocks = [
    _block(x[times], y[times])
    for x, y in zip(originals, reconstructions, strict=True)
  ]
  height, width = blocks[0].shape[:2]
  top = 2 * LINE
  size = max(LABEL + width, 420), top + len(blocks) * (height + LINE)
  sheet = PIL.Image.new("RGB", size, "white")
  draw = PIL.ImageDraw.Draw(sheet)
  draw_text(draw, (GAP, 3), EXPLAINED, "black", LETTERS)
  step = width // len(times)
  for i, t in enumerate(times):
    place = LABEL + i * step, LINE + 1
    draw_text(draw, place, f"frame {t}", "black", LETTERS)
  for n, (block, x, y) in enumerate(
    zip(blocks, originals, reconstructions, strict=True)
  ):
    y0 = top + n * (height + LINE)
    sheet.paste(PIL.Image.fromarray(block), (LABEL, y0))
    names = "original", "reconstruction", "error"
    for r, name in enumerate(names):
      place = GAP, y0 + r * height // 3
      draw_text(draw, place, name, "black", LETTERS)
    score = f"{pixels.psnr(y, x):.1f} dB"
    place = GAP, y0 + height // 3 + LINE
    draw_text(draw, place, score, "black", LETTERS)
  return np.asarray(sheet)


def _times(frames: int) -> np.ndarray:
  return np.unique(np.linspace(0, frames - 1, SHOWN).round().astype(int))


def _block(x_THWC: np.ndarray, y_THWC: np.ndarray) -> np.ndarray:
  """Three rows of frames, each frame with a gap after and below it."""
  rows = _bytes(x_THWC), _bytes(y_THWC), heat(pixels.error_map(y_THWC, x_THWC))
  return np.concatenate(
    [np.concatenate([_framed(f) for f in row], 1) for row in rows]
  )


def _framed(frame_HWC: np.ndarray) -> np.ndarray:
  picture = PIL.Image.fromarray(frame_HWC)
  scale = SIDE / max(picture.size)
  size = [max(round(n * scale), 1) for n in picture.size]
  enlarged = scale > 1  # pixels stay pixels
  kind = PIL.Image.Resampling.NEAREST if enlarged else PIL.Image.Resampling.BOX
  resized = np.asarray(picture.resize(size, kind))
  return np.pad(resized, [(0, GAP), (0, GAP), (0, 0)], constant_values=255)


def heat(error: np.ndarray) -> np.ndarray:
  """Errors from 0 (black) over red and yellow to `WHITE`, uint8 [..., 3]."""
  heat = 3 * error[..., None] / WHITE - np.arange(3)
  return (255 * np.clip(heat, 0, 1)).astype(np.uint8)


def _bytes(clip_THWC: np.ndarray) -> np.ndarray:
  shown = np.clip(clip_THWC, -1, 1) * 127.5 + 127.5
  return shown.round().astype(np.uint8)
