"""What accelerator.py measures: the cases, their configs, rows and programs.

Nothing here opens a device.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import config as c
from pyramid_jax.attention.attend import attend
from pyramid_jax.attention.ranges import key_ranges
from pyramid_jax.cost import chips, flops
from pyramid_jax.cost.workload import open_store, visited_pairs
from pyramid_jax.data.latents import NullPrompt
from pyramid_jax.data.packing import Planner
from pyramid_jax.data.rows import TokenSpec, pack_row, segment
from pyramid_jax.models.pure import pure
from pyramid_jax.models.t5 import T5
from pyramid_jax.models.vae import VAE

PARTS = ("attention", "train", "generate")
LATENT, TEXT = 14336, 2048  # tokens of a row, 16,384 together
PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "jax-cuda12-plugin",
            "jax-cuda13-plugin")  # fmt: skip
DRIVER = pathlib.Path("/proc/driver/nvidia/version")


def cases(parts: list[str]) -> list[dict]:
  """What is run, in order."""
  found = []
  if "attention" in parts:
    found += [
      {"part": "attention", "attention": name, "dtype": dtype}
      for name, dtype in (
        ("auto", "bfloat16"), ("xla", "bfloat16"), ("auto", "float32"),
      )
    ]  # fmt: skip
  if "train" in parts:
    found += [
      {"part": "train", "remat": remat, "rows": rows, "attention": "auto"}
      for remat in ("none", "matmuls", "attention", "layer")
      for rows in (1, 2, 4)
    ]
    found += [
      {"part": "train", "remat": "layer", "rows": 1, "attention": "xla"}
    ]
  if "generate" in parts:
    found += [
      {"part": "generate", "preset": preset, "seconds": 5}
      for preset in ("384p", "768p")
    ]
  return found


def config_of(case: dict, tiny: bool):
  """The config of a case."""
  model = c.DiTConfig(
    remat=case.get("remat", "attention"),
    attention=case.get("attention", "auto"),
    dtype=case.get("dtype", "bfloat16"),
  )
  config = c.Config(
    model=model,
    encode=c.EncodeConfig(sizes=((384, 640),), max_frames=121),
    latents=c.LatentDataConfig(
      rows=case.get("rows", 1), latent_tokens=LATENT, text_tokens=TEXT
    ),
    optimizer=c.OptimizerConfig(warmup=0),
  )
  if not tiny:
    return config
  small = dict(layers=2, heads=2, head_dim=16, text_dim=8, pooled_dim=4,
               latent_channels=4, table_size=16, table_base=8)  # fmt: skip
  return dataclasses.replace(
    config,
    model=dataclasses.replace(model, **small),
    vae=c.VAEConfig(
      channels=(4, 4, 4, 4), groups=2, latent_channels=4, encoder_blocks=1,
      decoder_blocks=1,
    ),
    encode=c.EncodeConfig(sizes=((64, 64),), max_frames=17),
    latents=c.LatentDataConfig(
      rows=config.latents.rows, latent_tokens=192, text_tokens=320,
      segments=16, window=32,
    ),
    text=c.TextConfig(max_tokens=32),
  )  # fmt: skip


def clip_config(case: dict, tiny: bool):
  """The config of a clip to generate."""
  sizes = c.PRESETS[case["preset"]] | {"frames": 24 * case["seconds"] + 1}
  if tiny:
    sizes |= {
      "height": 64, "width": 64, "frames": 17, "steps": (2,) * 3,
      "video_steps": (2,) * 3,
    }  # fmt: skip
  config = config_of(case, tiny)
  return dataclasses.replace(config, generate=c.GenerateConfig(**sizes))


def random_rows(config):
  """A batch as a run packs it, of random clips and prompts."""
  rng, model = np.random.default_rng(0), config.model
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  source = c.Source()
  data = dataclasses.replace(config.latents, sources=(source,))
  store = open_store(source, config, 0)
  planner = Planner([store], data, config.flow, model.patch, 0)
  spec, rows = TokenSpec.of(config.flow, model), []
  for r in range(data.rows):
    parts = []
    for pick in planner.row(r):
      i, lengths = pick.sample, store.lengths
      size = int(lengths.height[i]), int(lengths.width[i])
      latent = normal(int(lengths.frames[i]), *size, model.latent_channels)
      for choice in pick.choices:
        tokens = 1 if choice.drop else int(lengths.text[i])
        prompt = NullPrompt(
          normal(tokens, model.text_dim), normal(model.pooled_dim)
        )
        parts.append(segment(latent, choice.unit, choice.stage, prompt, spec))
    rows.append(
      pack_row(parts, data.latent_tokens, data.text_tokens, data.segments, r)
    )
  batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  batch["text"] = batch["text"].astype(jnp.dtype(config.text.dtype))
  return batch


def key_bounds(config) -> tuple[np.ndarray, np.ndarray]:
  """First and one past the last key of each token of a row, [1, J]."""
  row = {k: x[0] for k, x in random_rows(config).items()}
  order = row["joint"]
  number = np.concatenate([row["text_segment"], row["segment"]])[order]
  frame = np.concatenate([np.zeros_like(row["text_segment"]), row["frame"]])
  ranges = key_ranges(number[None], frame[order][None])
  return tuple(map(np.asarray, ranges))


def attention_programs(case: dict, start, end):
  """Jitted: the result; the same with its pullback; that of a gradient."""
  attending = lambda *qkv: attend(*qkv, start, end, case["attention"])
  return (
    jax.jit(attending),
    jax.jit(lambda *qkv: jax.vjp(attending, *qkv)),
    jax.jit(lambda pull, grad: pull(grad)),
  )


def attention_flops(config, start, end) -> dict[str, float]:
  """Of the pairs that are seen: 2 products forward, 5 more backward."""
  pairs = int((end - start).sum())
  product = 2.0 * pairs * config.model.heads * config.model.head_dim
  return {"forward": 2 * product, "backward": 5 * product}


def kernel_flops(config, start, end, tile) -> dict[str, float]:
  """What kernels execute: all pairs of the tiles that they visit."""
  seen, length = end > start, end.shape[1]
  pairs = visited_pairs(start[seen], end[seen], length, tile)
  product = 2.0 * pairs * config.model.heads * config.model.head_dim
  return {name: n * product for name, n in flops.KERNELS.items()}


def text_encoder(tiny: bool):
  """T5."""
  sizes = c.T5Config()
  if tiny:
    sizes = c.T5Config(
      layers=1, width=16, heads=2, hidden=16, head_dim=8, vocabulary=32
    )
  return pure(lambda rngs: T5(sizes, rngs=rngs))


def decoder(config):
  """The VAE, and its program for a unit's latents, jitted."""
  vae = pure(lambda rngs: VAE(config.vae, rngs=rngs))
  return vae, jax.jit(
    lambda params, z, cache: vae.apply(params, z, cache, method="decode_chunk")
  )


def versions() -> dict[str, str]:
  """Of the packages that compile and run, and of a GPU's driver."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue  # of other platforms
  if DRIVER.is_file():
    found["driver"] = DRIVER.read_text().splitlines()[0]
  return found


def lines_of(path: pathlib.Path | None) -> list[dict]:
  """The lines of a file; none if it is not there."""
  if path is None or not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def having(lines: list[dict], **settings) -> list[dict]:
  """Those of these settings, without cases that failed."""
  same = [x for x in lines if settings.items() <= x.items()]
  return [x for x in same if "failed" not in x]


ENOUGH = 0.9  # of the memory that is meant to be there


def taken_by_others(memory: dict, chip: chips.Chip | None) -> str:
  """How a GPU's memory was not all ours, by its `memory_stats()`; "" if it was.

  XLA reserves its share at once, or what there is of it, unless it is told
  otherwise by XLA_PYTHON_CLIENT_PREALLOCATE.
  """
  limit, pool = memory.get("bytes_limit", 0), memory.get("pool_bytes", 0)
  at_once = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "1").lower()
  if at_once in ("true", "1") and 0 < pool < ENOUGH * limit:
    return (
      f"the device gave {pool / chips.GIB:.1f} of {limit / chips.GIB:.1f} GiB: "
      "another process has the rest. End it (nvidia-smi names it), then run "
      "this again."
    )
  share = chips.GPU_SHARE * chip.hbm if chip else 0
  if 0 < limit < ENOUGH * share:
    return (
      f"JAX was allowed {limit / chips.GIB:.1f} GiB of the device, not "
      f"{share / chips.GIB:.1f}. Unset XLA_PYTHON_CLIENT_MEM_FRACTION and "
      "leave the device whole, then run this again."
    )
  return ""


def said(compiled, guess) -> dict:
  """Of a compiled program and its roofline."""
  found = {
    "gib": compiled.total / chips.GIB,
    "temporary_gib": compiled.temp / chips.GIB,
    "fits": compiled.fits,
  }
  if guess is None:  # it does not fit, or no peaks are known
    return found
  return found | {
    "seconds": guess.step, "serial_seconds": guess.serial, "binds": guess.binds
  }  # fmt: skip
