"""The causal VAE: whole, in chunks, in tiles, block by block, to bytes.

Legend: B clips, C T H W as the reference has them.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.convert.models import CAUSAL_VAE
from pyramid_jax.convert.released import STATISTICS
from pyramid_jax.data.latents import Statistics
from pyramid_jax.flow import resample
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models import vae_tiling
from pyramid_jax.verify.file import Reference, ReferenceFileError, read
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report
from pyramid_jax.verify.sampler import channels_first, channels_last

OUTPUT = 1e-4


def load(file: Reference, options: Options):
  """The VAE and its parameters, from the weights file beside this one."""
  return load_weights(
    file, file.config["weights"], options, file.config["model"]
  )[1:]


def load_weights(
  file: Reference, name: str, options: Options, model: dict | None = None
):
  """Config, VAE and parameters from a weights file beside a reference.

  `model` is the config that the reference has; else the weights' own.
  """
  path = file.path.parent / pathlib.Path(name).name
  if not path.is_file():
    raise ReferenceFileError(
      f"{file.path} needs its weights, {path}, which is not there."
    )
  weights = read(path)
  config = CAUSAL_VAE.read_config(model or weights.config["model"])
  params = CAUSAL_VAE.from_torch(config, weights.under("param/"))
  made = CAUSAL_VAE.make(dataclasses.replace(config, dtype=options.dtype))
  return config, made, options.place(made, params)


def rounds(file: Reference, report: Report, options: Options):
  """Compares moments and pixels of every clip, whole and in chunks."""
  model, params = load(file, options)
  pattern = r"out/(?:(.+)/)?(moments|decode)(?:_w(\d+))?"
  apply = {
    name: options.jit(functools.partial(model.apply, method=f"{name}_chunk"))
    for name in ("encode", "decode")
  }
  with options.on_mesh():
    for key in list(file.arrays):
      if not (found := re.fullmatch(pattern, key)):
        continue
      clip, what, window = found.groups()
      prefix = f"{clip}/" if clip else ""
      side, letter, method = {
        "moments": ("enc", "x", "encode"), "decode": ("dec", "z", "decode"),
      }[what]  # fmt: skip
      x = channels_last(file[f"in/{prefix}{letter}"])
      if window is None:
        _middle(report, options, model, params, x, prefix, side)
      step = int(window or x.shape[1])
      ends = range(step + 1, x.shape[1], step) if window else []
      cache, parts = None, []
      for chunk in np.split(x, ends, 1):
        y, cache = apply[method](params, chunk, cache)
        parts.append(y)
      ours = channels_first(np.concatenate(parts, 1))
      report.compare(key, ours, OUTPUT)
      if what == "moments":
        _posterior(file, report, prefix, ours)
    if "in/wild_moments" in file:
      q = vae_lib.posterior(channels_last(file["in/wild_moments"]))
      for name in ("logvar", "std"):
        ours = channels_first(getattr(q, name))
        report.compare(f"out/wild_{name}", ours, OUTPUT)


def _posterior(file, report: Report, prefix: str, moments: np.ndarray):
  """Compares what follows from moments."""
  q = vae_lib.posterior(channels_last(moments))
  values: dict[str, Callable] = {
    name: lambda name=name: channels_first(getattr(q, name))
    for name in ("mean", "logvar", "std", "mode")
  }
  values["kl"] = q.kl
  if f"in/{prefix}eps" in file:
    eps = channels_last(file[f"in/{prefix}eps"])
    values["sample"] = lambda: channels_first(q.sample(eps))
  for name, ours in values.items():
    if f"out/{prefix}{name}" in file:
      report.compare(f"out/{prefix}{name}", ours(), OUTPUT)


def _middle(report: Report, options, model, params, x, prefix: str, side: str):
  """Compares what every level gives, in order."""
  prefix = f"mid/{prefix}{side}"
  if not report.wants(f"{prefix}/"):
    return
  names = []

  def middle(module, x):
    found = list(_levels(module, x, side))
    names.extend(name for name, _ in found)
    return [value for _, value in found]

  values = options.jit(functools.partial(model.apply, method=middle))(params, x)
  for name, value in zip(names, values, strict=True):
    report.middle(f"{prefix}/{name}", lambda value=value: channels_first(value))


def _levels(module, x, side: str) -> Iterator[tuple[str, jax.Array]]:
  if side == "enc":
    part, tag = module.encoder, "down"
  else:
    part, tag = module.decoder, "up"
    x = module.latents(x)
    yield "post_quant", x
  x = part.conv_in(x, None)[0]
  yield "conv_in", x
  levels = list(part.levels)
  if side == "dec":
    x = part.middle(x, None)[0]
    yield "mid", x
  for i, level in enumerate(levels):
    x = level(x, None)[0]
    yield f"{tag}{i}", x
  if side == "enc":
    x = part.middle(x, None)[0]
    yield "mid", x
  yield "norm_out", part.out.norm(x)
  if side == "enc":
    yield "out", part.out(x, None)[0]


def tiles(file: Reference, report: Report, options: Options):
  """Compares clips that are encoded and decoded in tiles of space."""
  model, params = load(file, options)
  config = CAUSAL_VAE.read_config(file.config["model"])
  space = 2 ** sum(config.down_space)
  with options.on_mesh():
    for key in list(file.arrays):
      found = re.fullmatch(
        r"out/(\w+)/(moments|decode)(_untiled)?(?:_chunk(\d+))?", key
      )
      if not found:
        continue
      case, what, untiled, window = found.groups()
      letter = "x" if what == "moments" else "z"
      x = channels_last(file[f"in/{case}/{letter}"])
      side = max(x.shape) * 8 if untiled else _tile(file, case)
      sides = side, side // space
      method, chunked = "encode", vae_lib.encode_chunked
      if what == "decode":
        sides = sides[::-1]
        method, chunked = "decode", vae_lib.decode_chunked
      if window:
        method = functools.partial(chunked, window=int(window))
      apply = options.jit(functools.partial(model.apply, method=method))
      ours = vae_tiling.run_tiles(
        lambda _, x, apply=apply: apply(params, x), x, *sides
      )
      report.compare(key, channels_first(ours), OUTPUT)


def _tile(file: Reference, case: str) -> int:
  """Pixels a side of a tile; the note of the file says them in words."""
  note = file.config.get("note", "")
  found = re.search(rf"\b{case}: [^;]*?tile (\d+)", note)
  if found is None:
    raise ReferenceFileError(
      f"{file.path}: its note {note!r} does not say the tile of case {case}."
    )
  return int(found[1])


def blocks(file: Reference, report: Report, options: Options):
  """Compares single blocks."""
  model, params = load(file, options)
  inputs = {k: channels_last(x) for k, x in file.under("in/").items()}

  def run(module, inputs):
    result = {}
    for key, (path, name, frames, how) in BLOCKS.items():
      found = module
      for step in path:
        found = found[step] if isinstance(step, int) else getattr(found, step)
      result[key] = how(found, inputs[name][:, :frames])
    return result

  apply = options.jit(functools.partial(model.apply, method=run))
  for key, y in apply(params, inputs).items():
    shape = file[f"out/{key}"].shape
    ours = channels_first(y).reshape(shape)
    report.compare(f"out/{key}", ours, OUTPUT)


def _whole(module, x):
  return module(x, None)[0]


def _bare(module, x):
  return module(x)


def _goes_on(module, x):
  """As a later chunk, after frames of zeros."""
  return module(x, jnp.zeros((x.shape[0], 2, *x.shape[2:])))[0]


def _in_chunks(*sizes):
  def run(module, x):
    cache, parts = None, []
    for chunk in jnp.split(x, np.cumsum(sizes)[:-1], 1):
      y, cache = module(chunk, cache)
      parts.append(y)
    return jnp.concatenate(parts, 1)

  return run


DOWN, UP = ("encoder", "levels", 1), ("decoder", "levels", 1)
MIDDLE = ("encoder", "middle")
SPACE, TIME = ("resample", 0), ("resample", 1)
# output: module, input, how many of its frames (None: all), how
BLOCKS = {
  "groupnorm12": ((*DOWN, "blocks", 1, "first", "norm"), "h12", None, _bare),
  "resnet12": ((*DOWN, "blocks", 1), "h12", None, _whole),
  "resnet8to12": ((*DOWN, "blocks", 0), "h8", None, _whole),
  "spatial_down12": ((*DOWN, *SPACE), "h12", None, _whole),
  "temporal_down12_T5": ((*DOWN, *TIME), "h12", 5, _whole),
  "temporal_down12_T4": ((*DOWN, *TIME), "h12", 4, _whole),
  "temporal_down12_T1": ((*DOWN, *TIME), "h12", 1, _whole),
  "tdown_whole_T7": ((*DOWN, *TIME), "h12_T7", None, _whole),
  "tdown_chunked_T7": ((*DOWN, *TIME), "h12_T7", None, _in_chunks(3, 2, 2)),
  "conv_whole": (
    (*DOWN, "blocks", 1, "first", "conv"), "h12_T6", None, _whole,
  ),
  "conv_chunked": (
    (*DOWN, "blocks", 1, "first", "conv"), "h12_T6", None, _in_chunks(3, 2, 1),
  ),
  "downblock1": (DOWN, "h8", None, _whole),
  "spatial_up16": ((*UP, *SPACE), "h16", None, _whole),
  "temporal_up16_init": ((*UP, *TIME), "h16", None, _whole),
  "temporal_up16_noinit": ((*UP, *TIME), "h16", None, _goes_on),
  "temporal_up16_T1_init": ((*UP, *TIME), "h16", 1, _whole),
  "mid_attn16": ((*MIDDLE, "blocks", 1), "h16", 1, _whole),
  "mid_block": (MIDDLE, "h16", None, _whole),
}  # fmt: skip


def to_bytes(file: Reference, report: Report, options: Options):
  """Compares frames in bytes, and the levels of normalised latents."""
  model, params = load(file, options)
  decode = options.jit(functools.partial(model.apply, method="decode_chunk"))
  with options.on_mesh():
    for key in list(file.arrays):
      found = re.fullmatch(
        r"out/(\w+)/(?:(factors)|(\w+)_uint8_savemem(\d)|norm_(\w+)_pyr(\d))",
        key,
      )
      if not found:
        continue
      pipeline, factors, kind, chunked, clip, level = found.groups()
      values = file[f"out/{pipeline}/factors"].tolist()
      statistics = Statistics(*values)
      if factors:
        kind = "flux" if pipeline.endswith("flux") else "sd3"
        known = dataclasses.astuple(STATISTICS[kind])
        report.compare(key, np.array(known), 1e-6)
      elif level is not None:
        z = channels_last(file[f"in/{clip}_latents"])
        normalised = np.stack([statistics.normalise(x) for x in z])
        count = len(file.under(f"out/{pipeline}/norm_{clip}_pyr"))
        levels = resample.pyramid(normalised, count)
        report.compare(key, channels_first(levels[int(level)]), OUTPUT)
      else:
        z = channels_last(file[f"in/{kind}_latents"])
        z = np.stack([statistics.restore(x) for x in z])
        window = 1 if int(chunked) else z.shape[1]
        ends = range(window + 1, z.shape[1], window)
        cache, parts = None, []
        for chunk in np.split(z, ends, 1):
          y, cache = decode(params, chunk, cache)
          parts.append(y)
        pixels = np.concatenate(parts, 1)[0]
        frames = np.clip(pixels * 127.5 + 127.5, 0, 255).astype(np.uint8)
        report.compare(key, frames, 1, 1)
