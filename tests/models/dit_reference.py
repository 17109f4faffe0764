"""Packs a DiT reference file's samples into rows, from the README's words.

Nothing of the project's own row code is used, so that it is checked too.
"""

import numpy as np
from einops import rearrange


def _place(size: int, full: int) -> np.ndarray:
  """Where `size` half-pixel-centred samples of `full` places lie."""
  return (np.arange(size) + 0.5) * (full / size) - 0.5


def patch(config) -> int:
  """Pixels a side of a token; the flux-type counts them as channels."""
  return 2 if "num_single_layers" in config else config["patch_size"]


def _clip_tokens(clip_CTHW, target_CTHW, frame, config):
  """Patches, frames and places of one clip."""
  flux = "num_single_layers" in config
  p = patch(config)
  _, T, H, W = clip_CTHW.shape
  h, w = H // p, W // p
  full = [n // p for n in target_CTHW.shape[2:]]
  if not (config["interp_condition_pos"] or flux):
    full = [h, w]
  first = lambda f: 0 if flux else (config["pos_embed_max_size"] - f) // 2
  y, x = (first(f) + _place(n, f) for n, f in zip((h, w), full, strict=True))
  yx = np.broadcast_to(
    np.stack(np.meshgrid(y, x, indexing="ij"), -1), (T, h, w, 2)
  )
  return (
    rearrange(clip_CTHW, "c t (h p) (w q) -> (t h w) (p q c)", p=p, q=p),
    np.repeat(frame + np.arange(T), h * w),
    yx.reshape(-1, 2),
  )


def segments(reference, run: str) -> list[dict]:
  """Every sample of a run: patches, frame, yx, target mask, text, pooled."""
  config = reference.config["model"]
  arrays = reference.under(f"in/{run}/")
  columns = len({k.split("/")[1] for k in arrays if k.startswith("sample/")})
  result = []
  for r, timestep in enumerate(arrays["timestep"]):
    column, i = r % columns, r // columns
    prefix = f"sample/s{column}/c"
    n = sum(k.startswith(prefix) for k in arrays)
    clips = [arrays[f"{prefix}{j}"][i] for j in range(n)]
    frame, parts = 0, []
    for clip in clips:
      parts.append(_clip_tokens(clip, clips[-1], frame, config))
      frame += clip.shape[1]
    x, frames, yx = (np.concatenate(part) for part in zip(*parts, strict=True))
    valid = arrays["encoder_attention_mask"][r].astype(bool)
    result.append(
      {
        "x": x,
        "frame": frames,
        "yx": yx,
        "is_target": np.arange(len(x)) >= len(x) - len(parts[-1][0]),
        "text": arrays["encoder_hidden_states"][r][valid],
        "pooled": arrays["pooled_projections"][r],
        "timestep": timestep,
        "shape": clips[-1].shape,
        "place": (column, i),
      }
    )
  return result


def sizes(parts: list[dict], pad: int = 3) -> np.ndarray:
  """L, M and S of a row that holds these segments and some padding."""
  tokens = [sum(len(s[key]) for s in parts) + pad for key in ("x", "text")]
  return np.array([*tokens, len(parts) + 1])


def pack(parts: list[dict], size=None) -> tuple[dict, np.ndarray]:
  """One row of all segments: rows and x [1, L, C]; `size` is (L, M, S)."""
  L, M, S = sizes(parts) if size is None else size
  text = np.concatenate([s["text"] for s in parts])

  def row(arrays, length):
    x = np.concatenate(arrays)
    out = np.zeros((1, length, *x.shape[1:]), x.dtype)
    out[0, : len(x)] = x
    return out

  number = np.arange(1, len(parts) + 1)
  segment = row(
    [np.full(len(s["x"]), i) for s, i in zip(parts, number, strict=True)], L
  )
  text_segment = row(
    [np.full(len(s["text"]), i) for s, i in zip(parts, number, strict=True)], M
  )
  joint = []
  for i in number:
    joint += [*np.flatnonzero(text_segment[0] == i)]
    joint += [*(M + np.flatnonzero(segment[0] == i))]
  joint += [*np.flatnonzero(text_segment[0] == 0)]
  joint += [*(M + np.flatnonzero(segment[0] == 0))]
  rows = {
    "segment": segment.astype(np.int32),
    "frame": row([s["frame"] for s in parts], L).astype(np.int32),
    "yx": row([s["yx"] for s in parts], L).astype(np.float32),
    "text": row([text], M),
    "text_segment": text_segment.astype(np.int32),
    "pooled": row([np.stack([s["pooled"] for s in parts])], S),
    "joint": np.asarray(joint, np.int32)[None],
    "timestep": row([np.stack([s["timestep"] for s in parts])], S),
  }
  return rows, row([s["x"] for s in parts], L)


def unpack(velocity_BLC, rows, parts, patch: int) -> list[np.ndarray]:
  """The target clip [C, T, H, W] of every segment of a packed row."""
  result = []
  for i, s in enumerate(parts, 1):
    tokens = np.asarray(velocity_BLC)[0][rows["segment"][0] == i]
    _, T, H, W = s["shape"]
    result.append(
      rearrange(
        tokens[s["is_target"]],
        "(t h w) (p q c) -> c t (h p) (w q)",
        t=T,
        h=H // patch,
        w=W // patch,
        p=patch,
        q=patch,
      )
    )
  return result
