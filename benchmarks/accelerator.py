"""Times attention, training and generation on one accelerator.

  python benchmarks/accelerator.py > measured.jsonl
  python benchmarks/accelerator.py train generate > measured.jsonl

A line of JSON for each case: device, versions, what was run, figures. Weights
and data are random, sizes those of the released 2 B model; rows are packed as
a run of 384p packs them. Needs jax, flax, optax, einops and numpy alone. Every
case has a process of its own, so that its peak memory is its own; one that
does not fit says so in its line. `--tiny` runs everything small, anywhere.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax  # noqa: E402  the parent process asks for no device
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.tree_util import Partial  # noqa: E402

from pyramid_jax import config as c  # noqa: E402
from pyramid_jax import sharding  # noqa: E402
from pyramid_jax.attention.attend import attend  # noqa: E402
from pyramid_jax.attention.ranges import key_ranges  # noqa: E402
from pyramid_jax.cost import chips  # noqa: E402
from pyramid_jax.cost.workload import (  # noqa: E402
  measure,
  model_flops,
  open_store,
)
from pyramid_jax.data.latents import NullPrompt  # noqa: E402
from pyramid_jax.data.packing import Planner  # noqa: E402
from pyramid_jax.data.rows import TokenSpec, pack_row, segment  # noqa: E402
from pyramid_jax.data.sizes import schedule_of  # noqa: E402
from pyramid_jax.flow.sampler import generate_units  # noqa: E402
from pyramid_jax.generate.sizes import sampling_plan  # noqa: E402
from pyramid_jax.models.dit import make_dit  # noqa: E402
from pyramid_jax.models.pure import pure  # noqa: E402
from pyramid_jax.models.t5 import T5  # noqa: E402
from pyramid_jax.models.vae import VAE  # noqa: E402
from pyramid_jax.train import dit, state  # noqa: E402

PARTS = ("attention", "train", "generate")
REPEATS = 10
LATENT, TEXT = 14336, 2048  # tokens of a row, 16,384 together


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
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def random_params(shapes, dtype: str | None = None, places=None):
  """Small normal values, drawn on the device; in the shapes' dtypes or one."""

  def draw(key):
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
      0.02 * jax.random.normal(k, s.shape, dtype or s.dtype)
      for k, s in zip(keys, leaves, strict=True)
    )

  return jax.jit(draw, out_shardings=places)(jax.random.key(0))


def seconds(run, repeats: int = REPEATS) -> dict[str, float]:
  """Median, least and most of several calls, after one that compiles."""
  jax.block_until_ready(run())
  taken = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(run())
    taken.append(time.perf_counter() - began)
  taken.sort()
  return {
    "seconds": taken[len(taken) // 2], "least": taken[0], "most": taken[-1]
  }  # fmt: skip


def attention(case: dict, tiny: bool) -> dict:
  """Forward and backward of one row, and the error against float64."""
  config = config_of(case, tiny)
  row = {k: x[0] for k, x in random_rows(config).items()}
  order = row["joint"]
  number = np.concatenate([row["text_segment"], row["segment"]])[order]
  frame = np.concatenate([np.zeros_like(row["text_segment"]), row["frame"]])
  start, end = key_ranges(number[None], frame[order][None])
  shape = (1, len(order), config.model.heads, config.model.head_dim)
  q, k, v, grad = (
    jax.random.normal(key, shape, case["dtype"])
    for key in jax.random.split(jax.random.key(0), 4)
  )
  attending = lambda q, k, v: attend(q, k, v, start, end, case["attention"])
  forward = jax.jit(attending)
  both = jax.jit(lambda *qkv: jax.vjp(attending, *qkv)[1](grad))
  pairs = int((end - start).sum())
  product = 2 * pairs * shape[2] * shape[3]
  # of the pairs that are seen: 2 products forward, 5 more backward
  found = {"pairs": pairs, "density": pairs / len(order) ** 2}
  for name, run, products in (
    ("forward", lambda: forward(q, k, v), 2),
    ("forward_backward", lambda: both(q, k, v), 7),
  ):
    took = seconds(run)
    found[name] = {
      **took,
      "tflops": products * product / took["seconds"] / 1e12,
    }
  found["error"] = attention_error(forward(q, k, v), q, k, v, start, end)
  # gradients against the definition in float32, on the first tokens of the row
  few = min(2048, len(order))
  part = tuple(x[:, :few].astype(jnp.float32) for x in (q, k, v, grad))
  cut = jnp.minimum(start[:, :few], few), jnp.minimum(end[:, :few], few)
  grads = {
    how: jax.vjp(lambda *qkv, how=how: attend(*qkv, *cut, how), *part[:3])[1](
      part[3]
    )
    for how in (case["attention"], "dense")
  }
  found["gradient_error"] = max(
    float(jnp.abs(a - b).max() / jnp.abs(b).max())
    for a, b in zip(grads[case["attention"]], grads["dense"], strict=True)
  )
  return found


def attention_error(out, q, k, v, start, end) -> float:
  """Largest error of some queries against float64, by their largest value."""
  q, k, v, out = (np.asarray(x[0], np.float64) for x in (q, k, v, out))
  worst = largest = 0.0
  for i in np.linspace(0, len(q) - 1, 64).astype(int):
    a, b = int(start[0, i]), int(end[0, i])
    if a == b:
      continue
    logits = np.einsum("nk,rnk->nr", q[i], k[a:b]) * q.shape[-1] ** -0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    true = np.einsum("nr,rnk->nk", weights, v[a:b])
    worst = max(worst, np.abs(out[i] - true).max())
    largest = max(largest, np.abs(true).max())
  return float(worst / largest)


def train(case: dict, tiny: bool) -> dict:
  """The training step."""
  config = config_of(case, tiny)
  mesh = sharding.make_mesh(c.MeshConfig(), jax.devices()[:1])
  program = dit.make_program(config)
  with jax.set_mesh(mesh):
    params = random_params(
      program.model.shapes, "float32", program.shardings(mesh).params
    )
    now = state.create(program.model, program.tx, mesh, 0, params)
    batch = sharding.place_batch(mesh, random_rows(config), config.latents.rows)
    step, key = program.jitted(mesh), jax.random.key(0)

    def run():
      nonlocal now
      now, metrics = step(now, batch, key)
      return metrics["loss"]

    took = seconds(run)
  chip = chips.of_kind(jax.devices()[0].device_kind)
  need = model_flops(config, measure(config, chip.tile if chip else (512, 512)))
  rate = need / took["seconds"]
  valid = int((batch["segment"] > 0).sum() + (batch["text_segment"] > 0).sum())
  return {
    **took,
    "tokens_per_second": valid / took["seconds"],
    "tflops": rate / 1e12,
    "mfu": rate / chip.peak if chip else None,
  }


def generate(case: dict, tiny: bool) -> dict:
  """A clip with guidance: T5, transformer and VAE, one after the other."""
  config = config_of(case, tiny)
  sizes = c.PRESETS[case["preset"]] | {"frames": 24 * case["seconds"] + 1}
  if tiny:
    sizes |= {
      "height": 64, "width": 64, "frames": 17, "steps": (2,) * 3,
      "video_steps": (2,) * 3,
    }  # fmt: skip
  plan = sampling_plan(config, c.GenerateConfig(**sizes), config.vae)
  text = encode_text(config, tiny)
  transformer, latents = sample(config, plan)
  return {"text": text, "transformer": transformer} | {
    "vae": decode(config, latents)
  }


def encode_text(config, tiny: bool) -> dict[str, float]:
  """T5 on the two prompts of guidance."""
  sizes = c.T5Config()
  if tiny:
    sizes = c.T5Config(
      layers=1, width=16, heads=2, hidden=16, head_dim=8, vocabulary=32
    )
  model = pure(lambda rngs: T5(sizes, rngs=rngs))
  params = random_params(model.shapes, "bfloat16")
  shape = 2, config.text.max_tokens
  ids, mask = np.ones(shape, np.int32), np.ones(shape, bool)
  run = jax.jit(model.apply)
  return seconds(lambda: run(params, ids, mask), 3)


def sample(config, plan) -> tuple[dict[str, float], list]:
  """All units of a clip; also its latents."""
  model, rows = make_dit(config.model), (2, config.text.max_tokens)
  velocity = Partial(model.apply, random_params(model.used))
  text = {
    "text": jnp.zeros((*rows, config.model.text_dim)),
    "text_segment": jnp.ones(rows, jnp.int32),
    "pooled": jnp.zeros((2, 1, config.model.pooled_dim)),
  }
  keys = jax.random.split(jax.random.key(0), 1)
  schedule = schedule_of(config.flow)

  def run():
    units = generate_units(velocity, plan, schedule, text, keys=keys)
    return [ends[-1] for ends in units]

  return seconds(run, 3), run()


def decode(config, latents: list) -> dict[str, float]:
  """The VAE, unit by unit."""
  vae = pure(lambda rngs: VAE(config.vae, rngs=rngs))
  params = random_params(vae.shapes, "bfloat16")
  chunk = jax.jit(
    lambda params, z, cache: vae.apply(params, z, cache, method="decode_chunk")
  )

  def run():
    cache = None
    for z in latents:
      pixels, cache = chunk(params, z, cache)
    return pixels

  return seconds(run, 3)


def run(case: dict, tiny: bool) -> dict:
  """One case in this process."""
  device = jax.devices()[0]
  line = {
    "device": device.device_kind,
    "jax": importlib.metadata.version("jax"),
    **case,
  }
  try:
    line |= globals()[case["part"]](case, tiny)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    line["out_of_memory"] = str(error).splitlines()[0][:200]
  memory = device.memory_stats() or {}
  line["peak_gib"] = memory.get("peak_bytes_in_use", float("nan")) / 2**30
  return line


def main() -> int:
  flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  flags.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
  flags.add_argument("--tiny", action="store_true", help="small sizes")
  flags.add_argument("--case", type=json.loads, help="one case, as JSON")
  given = flags.parse_args()
  if unknown := set(given.parts) - set(PARTS):
    flags.error(f"{', '.join(unknown)}: there are {', '.join(PARTS)}.")
  if given.case:
    print(json.dumps(run(given.case, given.tiny)), flush=True)
    return 0
  environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ}
  failed = 0
  for case in cases(given.parts or list(PARTS)):
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    command += ["--tiny"] * given.tiny
    failed += subprocess.run(command, env=environment).returncode != 0
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main())
