"""Calls of a transformer: outputs, gradients, every block's output.

A sample is a list of clips, oldest first, the last one noisy, in any sizes; its
tokens are laid out from the clips alone, not by the code that packs training
rows.

Legend: B rows, L latent tokens, M text tokens, S segments, C values of a patch.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from pyramid_jax.config import DiTConfig
from pyramid_jax.convert.models import DIT
from pyramid_jax.convert.snapshot import open_tensors
from pyramid_jax.flow.history import joint_order
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.verify.file import Reference
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report

OUTPUT = 1e-4


def load(file: Reference, options: Options) -> tuple[DiTConfig, Pure, Params]:
  """The model of a file and its parameters."""
  config = DIT.read_config(file.config["model"])
  tensors = file.under("param/")
  if not tensors and "snapshot" in file.config:  # weights that lie elsewhere
    tensors = open_tensors(file.path.parent / file.config["snapshot"])
  params = DIT.from_torch(config, tensors)
  config = dataclasses.replace(
    config, dtype=options.dtype, attention=options.attention
  )
  model = DIT.make(config)
  return config, model, options.place(model, params)


def run(file: Reference, report: Report, options: Options):
  """Compares every run of a file; all go through one compiled program."""
  config, model, params = load(file, options)
  runs = {
    r["name"]: split(segments(file, r["name"], config), options.rows)
    for r in file.config["runs"]
  }
  size = np.max([sizes(row) for rows in runs.values() for row in rows], 0)
  with options.on_mesh():
    apply = options.jit(model.apply)
    gradient = options.jit(jax.grad(functools.partial(_loss, model)))
    for name, parts in runs.items():
      batch, x = pack(parts, size)
      if report.wants(f"mid/{name}/"):
        middle = functools.partial(_middle, f"mid/{name}", report, options)
        middle(model, params, x, batch, parts)
      velocity = apply(params, x, batch, batch["timestep"])
      clips = unpack(velocity, batch, parts, config.patch)
      for key in file.under(f"out/{name}/s"):
        column = int(key)
        ours = [clip for (c, _), clip in sorted(clips.items()) if c == column]
        report.compare(f"out/{name}/s{column}", np.stack(ours), OUTPUT)
      if f"out/{name}/loss" in file:
        target, weight = targets(file, name, batch, parts, config.patch)
        loss = (weight[..., None] * (np.asarray(velocity) - target) ** 2).sum()
        report.compare(f"out/{name}/loss", loss, OUTPUT)
        grads = gradient(params, x, batch, target, weight)
        ours = DIT.to_torch(config, jax.device_get(grads))
        report.compare_gradients(f"grad/{name}/", ours)


def _loss(model: Pure, params, x, batch, target, weight) -> jax.Array:
  velocity = model.apply(params, x, batch, batch["timestep"])
  return (weight[..., None] * (velocity - target) ** 2).sum()


@dataclasses.dataclass(frozen=True)
class Part:
  """One sample: its tokens and what it is told."""

  place: tuple[int, int]  # column of the file, row of that column
  shape: tuple[int, ...]  # of its noisy clip, C T H W
  x: np.ndarray
  frame: np.ndarray
  yx: np.ndarray
  is_target: np.ndarray
  text: np.ndarray  # its valid tokens
  pooled: np.ndarray
  timestep: np.ndarray
  text_at: np.ndarray | None = None  # where they stand in the file
  text_length: int = 0  # with padding


def segments(file: Reference, run: str, config: DiTConfig) -> list[Part]:
  """Every sample of a run, in the order of its rows."""
  arrays = file.under(f"in/{run}/")
  samples = {k for k in arrays if k.startswith("sample/")}
  columns = len({k.split("/")[1] for k in samples})
  result = []
  for r, timestep in enumerate(arrays["timestep"]):
    column, i = r % columns, r // columns
    prefix = f"sample/s{column}/c"
    n = sum(k.startswith(prefix) for k in samples)
    clips = [arrays[f"{prefix}{j}"][i] for j in range(n)]
    mask = arrays["encoder_attention_mask"][r]
    valid = np.flatnonzero(mask)
    part = part_of(
      clips,
      config,
      (column, i),
      arrays["encoder_hidden_states"][r][valid],
      arrays["pooled_projections"][r],
      timestep,
    )
    result.append(
      dataclasses.replace(part, text_at=valid, text_length=len(mask))
    )
  return result


def part_of(clips, config, place, text, pooled, timestep) -> Part:
  """A sample from its clips, [C, T, H, W] each."""
  frame, tokens = 0, []
  for clip in clips:
    tokens.append(clip_tokens(clip, clips[-1], frame, config))
    frame += clip.shape[1]
  x, frames, yx = (np.concatenate(each) for each in zip(*tokens, strict=True))
  is_target = np.arange(len(x)) >= len(x) - len(tokens[-1][0])
  shape = clips[-1].shape
  return Part(
    place, shape, x, frames, yx, is_target, text, pooled, np.asarray(timestep)
  )


def clip_tokens(clip_CTHW, target_CTHW, frame: int, config: DiTConfig):
  """Patches, frames and places of one clip."""
  p, (_, T, H, W) = config.patch, clip_CTHW.shape
  full = [n // p for n in target_CTHW.shape[2:]]
  if config.history_positions == "plain":
    full = [H // p, W // p]
  first = [(config.grid - n) // 2 if config.grid else 0 for n in full]
  y, x = (
    f + (np.arange(n) + 0.5) * (m / n) - 0.5
    for f, n, m in zip(first, (H // p, W // p), full, strict=True)
  )
  yx = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
  return (
    patches(clip_CTHW, p),
    np.repeat(frame + np.arange(T), len(yx)),
    np.tile(yx, (T, 1)),
  )


def patches(clip_CTHW: np.ndarray, patch: int) -> np.ndarray:
  """The tokens [T h w, p p C] of a clip."""
  return rearrange(
    clip_CTHW, "c t (h p) (w q) -> (t h w) (p q c)", p=patch, q=patch
  )


def split(parts: Sequence[Part], rows: int) -> list[list[Part]]:
  """The samples over rows, in turn; a row that would be empty takes the last.

  It is computed twice, which changes nothing.
  """
  return [list(parts[i::rows]) or [parts[-1]] for i in range(rows)]


def sizes(parts: Sequence[Part], pad: int = 3) -> np.ndarray:
  """L, M and S of a row that holds these segments and some padding."""
  tokens = [sum(len(getattr(s, k)) for s in parts) + pad for k in ("x", "text")]
  return np.array([*tokens, len(parts) + 1])


def pack(
  rows: Sequence[Sequence[Part]], size: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Rows of segments as a batch, and x [B, L, C]; `size` is (L, M, S)."""
  L, M, S = size

  def padded(arrays, length):
    x = np.concatenate(arrays)
    return np.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1))

  def one(parts):
    count = lambda key: [len(getattr(s, key)) for s in parts]
    number = np.arange(1, len(parts) + 1, dtype=np.int32)
    each = lambda key: [getattr(s, key) for s in parts]
    row = {
      "x": padded(each("x"), L),
      "segment": padded([np.repeat(number, count("x"))], L),
      "frame": padded(each("frame"), L).astype(np.int32),
      "yx": padded(each("yx"), L).astype(np.float32),
      "text": padded(each("text"), M),
      "text_segment": padded([np.repeat(number, count("text"))], M),
      "pooled": padded([np.stack(each("pooled"))], S),
      "timestep": padded([np.stack(each("timestep"))], S),
    }
    row["joint"] = joint_order(
      row["segment"], row["frame"], row["text_segment"]
    )
    return row

  made = [one(parts) for parts in rows]
  batch = {key: np.stack([row[key] for row in made]) for key in made[0]}
  return batch, batch.pop("x").astype(np.float32)


def unpack(
  velocity_BLC, batch, rows: Sequence[Sequence[Part]], patch: int
) -> dict[tuple[int, int], np.ndarray]:
  """The target clip [C, T, H, W] of every sample, by its place."""
  velocity_BLC, result = np.asarray(velocity_BLC), {}
  for b, parts in enumerate(rows):
    for i, part in enumerate(parts, 1):
      tokens = velocity_BLC[b][batch["segment"][b] == i][part.is_target]
      _, T, H, _ = part.shape
      result[part.place] = rearrange(
        tokens,
        "(t h w) (p q c) -> c t (h p) (w q)",
        t=T,
        h=H // patch,
        p=patch,
        q=patch,
      )
  return result


def targets(file, run: str, batch, rows, patch: int):
  """Targets [B, L, C] of a run with a loss, and their weights [B, L].

  The loss is the mean over a sample's values, then over samples.
  """
  shape = batch["segment"].shape
  samples = sum(len(parts) for parts in rows)
  target, weight = None, np.zeros(shape, np.float32)
  for b, parts in enumerate(rows):
    for i, part in enumerate(parts, 1):
      column, row = part.place
      tokens = patches(file[f"in/{run}/target/s{column}"][row], patch)
      if target is None:
        target = np.zeros((*shape, tokens.shape[1]), np.float32)
      where = np.flatnonzero(batch["segment"][b] == i)[part.is_target]
      target[b, where] = tokens
      weight[b, where] = 1 / tokens.size / samples
  return target, weight


def _middle(
  prefix: str,
  report: Report,
  options: Options,
  model: Pure,
  params: Params,
  x,
  batch: Mapping[str, Any],
  rows: Sequence[Sequence[Part]],
):
  """Compares what every block gives, in order."""
  names = []

  def middle(module, x, batch):
    found = list(_values(module, x, batch))
    names.extend((name, kind) for name, kind, _ in found)
    return [value for _, _, value in found]

  apply = options.jit(functools.partial(model.apply, method=middle))
  values = jax.device_get(apply(params, x, batch))
  for (name, kind), value in zip(names, values, strict=True):
    for key, theirs in report.file.under(f"{prefix}/{name}").items():
      if key == "" or key.startswith("/s"):
        column = int(key[2:]) if key else None
        ours = _as_recorded(theirs, kind, column, value, batch, rows)
        report.middle(f"{prefix}/{name}{key}", lambda ours=ours: ours)


def _values(module, x_BLC, batch) -> Iterator[tuple[str, str, jax.Array]]:
  """(name, what it is of, value) of every intermediate."""
  row = module.shared(batch, batch["timestep"])
  yield "temb", "segment", module.condition(batch, batch["timestep"])
  carry = module.embed(jnp.asarray(x_BLC), batch)
  yield "context", "text", carry[1]
  yield "tokens", "latent", carry[0]
  flux, layers = module.config.kind == "flux", module.config.layers
  layer = lambda stack, i: jax.tree.map(lambda a: a[i], stack)
  for i in range(layers):
    last = not flux and i == layers - 1
    block = module.last_block if last else layer(module.blocks, i)
    carry = block(carry, row)
    if not last:
      yield f"block{i}/encoder_hidden", "text", carry[1]
    yield f"block{i}/hidden", "latent", carry[0]
  for i in range(module.config.single_layers if flux else 0):
    carry = layer(module.single_blocks, i)(carry, row)
    joint = jnp.concatenate([carry[1], carry[0]], 1)
    yield f"single_block{i}/hidden", "joint", joint
  normed = module.normed(carry[0], row)
  yield "norm_out", "latent", normed
  yield "proj_out", "latent", module.patch_out(normed)


def _as_recorded(
  theirs: np.ndarray,
  kind: str,
  column: int | None,
  value: np.ndarray,
  batch: Mapping[str, Any],
  rows: Sequence[Sequence[Part]],
) -> np.ndarray:
  """An intermediate as the reference has it; its padding is taken over.

  Text and segments have a row a sample. Latent tokens have a row for a sample
  of every column, the columns one after the other; in a joint array the text
  stands before each.
  """
  ours, M = np.array(theirs), batch["text_segment"].shape[1]
  by_place = {p.place: p for parts in rows for p in parts}
  columns = 1 + max(c for c, _ in by_place)
  lengths = [len(by_place[c, 0].x) for c in range(columns)]
  for b, parts in enumerate(rows):
    for i, part in enumerate(parts, 1):
      c, r = part.place
      if column not in (None, c):
        continue
      text, latent = (
        np.flatnonzero(batch[key][b] == i)
        for key in ("text_segment", "segment")
      )
      if kind == "segment":
        ours[r * columns + c] = value[b, i - 1]
      elif kind == "text":
        ours[r * columns + c, part.text_at] = value[b, text]
      elif kind == "latent":
        start = 0 if column is not None else sum(lengths[:c])
        ours[r, start : start + len(latent)] = value[b, latent]
      else:
        start = sum(lengths[:c]) + c * part.text_length
        ours[r, start + part.text_at] = value[b, text]
        start += part.text_length
        ours[r, start : start + len(latent)] = value[b, M + latent]
  return ours
