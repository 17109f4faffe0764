"""Packs segments into rows as the tests need them, by the plainest means."""

import numpy as np

from pyramid_jax.flow import history, resample

PATCH = 2


def segment(video, clips, stages, positions="interpolated"):
  """The tokens of a segment of `video` [T, H, W, C], a dict of [n, ...]."""
  frames, height, width, _ = video.shape
  levels = resample.pyramid(video, stages)
  layout = history.layout(
    clips, stages, frames, height, width, PATCH, positions
  )
  clean = resample.token_pool(levels, PATCH)[layout.source]
  coarse = resample.token_pool(resample.coarse_pyramid(levels), PATCH)
  values = layout.is_target.sum() * clean.shape[1]
  return dict(
    clean=clean,
    coarse=coarse[layout.source] * layout.is_target[:, None],
    frame=layout.frame,
    yx=layout.yx,
    is_target=layout.is_target,
    weight=(layout.is_target / values).astype(np.float32),
    stage=clips[-1].level,
  )


def row(segments, length, slots):
  """One row [1, length, ...] of segments, padded."""
  out = {}
  for name in ("clean", "coarse", "frame", "yx", "is_target", "weight"):
    tokens = np.concatenate([s[name] for s in segments])
    padding = [(0, length - len(tokens))] + [(0, 0)] * (tokens.ndim - 1)
    out[name] = np.pad(tokens, padding)[None]
  ids = np.repeat(
    np.arange(len(segments)) + 1, [len(s["frame"]) for s in segments]
  )
  out["segment"] = np.pad(ids, (0, length - len(ids)))[None].astype(np.int32)
  stage = [s["stage"] for s in segments]
  out["stage"] = np.array([stage + [-1] * (slots - len(stage))], np.int32)
  out["index"] = np.zeros(1, np.int32)
  return out


def batch(rows):
  """Stacks rows and numbers them."""
  out = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
  out["index"] = np.arange(len(rows), dtype=np.int32)
  return out
