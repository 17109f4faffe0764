"""Times attention, training and generation on one accelerator.

  python benchmarks/accelerator.py --kept=docs/performance.jsonl
  python benchmarks/accelerator.py train generate > measured.jsonl
  python benchmarks/accelerator.py --compile=h100:1  # compiles, without a GPU

A line of JSON for each case: device, versions, what was run, figures, and of a
training step what `pyramid-plan` estimates. With --kept they are added to that
file, and cases that it has of the same device and versions are not run again;
performance_document.py makes docs/performance.md of docs/performance.jsonl.
Compiled programs stay in --cache. Weights and data are random, sizes those of
the released 2 B model; rows are packed as a run of 384p packs them. Needs jax,
flax, optax, einops and numpy alone. Every case has a process of its own, so
that its peak memory is its own; one that does not fit says so in its line, and
one that found the memory taken by others says that and is run again the next
time. `--tiny` runs everything small, anywhere.
"""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import children  # noqa: E402
import jax  # noqa: E402  the parent process asks for no device
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from accelerator_cases import (  # noqa: E402
  PARTS,
  attention_flops,
  attention_programs,
  cases,
  clip_config,
  config_of,
  decoder,
  having,
  key_bounds,
  lines_of,
  random_rows,
  said,
  taken_by_others,
  text_encoder,
  versions,
)
from jax.tree_util import Partial  # noqa: E402

from pyramid_jax import config as c  # noqa: E402
from pyramid_jax import sharding  # noqa: E402
from pyramid_jax.cost import chips, plan  # noqa: E402
from pyramid_jax.cost.workload import measure, model_flops  # noqa: E402
from pyramid_jax.data.sizes import schedule_of  # noqa: E402
from pyramid_jax.flow.sampler import generate_units  # noqa: E402
from pyramid_jax.generate.sizes import sampling_plan  # noqa: E402
from pyramid_jax.models.dit import make_dit  # noqa: E402
from pyramid_jax.train import dit, state  # noqa: E402
from tests.attention import packings  # noqa: E402

REPEATS = 10
COMPILED = "/jax/core/compile/backend_compile_duration"
MORE = 3  # calls in place of timed ones that compiled
CACHE = pathlib.Path.home() / ".cache" / "pyramid_jax" / "compiled"
CUT = 2048  # tokens of a row that are compared with the definition


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
  """Median, least and most of several calls, after one that compiles.

  A later one that compiles too does not count.

  Raises:
    RuntimeError: calls compile again and again.
  """
  compiled, taken, wasted = [], [], 0
  listen = lambda name, *_, **more: name == COMPILED and compiled.append(more)
  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.block_until_ready(run())
  while len(taken) < repeats:
    compiled.clear()
    began = time.perf_counter()
    jax.block_until_ready(run())
    if not compiled:
      taken.append(time.perf_counter() - began)
      continue
    wasted += 1
    if wasted > MORE:
      raise RuntimeError(
        f"{wasted} of {wasted + len(taken)} calls to time compiled something "
        f"({compiled[0]}), at most {MORE} may; give them arguments of the same "
        "shapes, dtypes and places as the first."
      )
  taken.sort()
  return {
    "seconds": taken[len(taken) // 2], "least": taken[0], "most": taken[-1]
  }  # fmt: skip


def attention(case: dict, tiny: bool) -> dict:
  """Forward and backward of one row, and their errors against float64."""
  config = config_of(case, tiny)
  start, end = key_bounds(config)
  shape = (*start.shape, config.model.heads, config.model.head_dim)
  q, k, v, grad = (
    jax.random.normal(key, shape, case["dtype"])
    for key in jax.random.split(jax.random.key(0), 4)
  )
  forward, with_pullback, backward = attention_programs(case, start, end)
  pull = with_pullback(q, k, v)[1]
  flops = attention_flops(config, start, end)
  chip = chips.of_kind(jax.devices()[0].device_kind)
  found = {"density": float((end - start).sum() / start.shape[1] ** 2)}
  for name, run in (
    ("forward", lambda: forward(q, k, v)),
    ("backward", lambda: backward(pull, grad)),
  ):
    took = seconds(run)
    rate = flops[name] / took["seconds"]
    # the peak is that of bfloat16
    share = rate / chip.peak if chip and case["dtype"] == "bfloat16" else None
    found[name] = {**took, "tflops": rate / 1e12, "share": share}
  found["error"] = attention_error(forward(q, k, v), q, k, v, start, end)
  found["cut_errors"] = cut_errors(case, q, k, v, grad, start, end)
  return found


def cut_errors(case: dict, q, k, v, grad, start, end) -> dict[str, float]:
  """Largest errors of result and gradients on a row's first tokens.

  By the largest values of the definition, in float64 on the host, head by head.
  """
  q, k, v, grad = (x[:, :CUT] for x in (q, k, v, grad))
  start, end = (np.minimum(x[:, :CUT], q.shape[1]) for x in (start, end))
  _, with_pullback, backward = attention_programs(case, start, end)
  out, pull = with_pullback(q, k, v)
  actual = (out, *backward(pull, grad))
  mask = packings.pairs(start, end, q.shape[1])
  heads = []
  for n in range(q.shape[2]):
    *qkv, g = (np.asarray(x[:, :, [n]], np.float64) for x in (q, k, v, grad))
    true = packings.dense(*qkv, mask)
    heads.append((true, *packings.dense_gradients(*qkv, mask, g)))
  expected = (np.concatenate(x, 2) for x in zip(*heads, strict=True))
  return {
    name: float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())
    for name, a, b in zip(("out", "q", "k", "v"), actual, expected, strict=True)
  }


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


def estimated(config) -> dict | None:
  """What the planner says of the step on this device; None if not known."""
  chip = chips.of_kind(jax.devices()[0].device_kind)
  if chip is None:
    return None
  platform = jax.default_backend().replace("gpu", "cuda")
  target = chips.Target(platform, f"{chip.name}:1", chip, 1)
  (found,) = plan.make(config, target, on=jax.devices()[:1])
  return said(found.compiled, found.estimate)


def estimate_or_why(config) -> dict:
  """The estimate of a line, or what kept the planner from it."""
  try:
    return {"estimate": estimated(config)}
  except Exception as error:  # a planner that fails loses no measurement
    why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return {"estimate": None, "estimate_error": why}


def generate(case: dict, tiny: bool) -> dict:
  """A clip with guidance: T5, transformer and VAE, one after the other."""
  config = clip_config(case, tiny)
  text = encode_text(config, tiny)
  wanted = sampling_plan(config, config.generate, config.vae)
  transformer, latents = sample(config, wanted)
  return {"text": text, "transformer": transformer} | {
    "vae": decode(config, latents)
  }


def encode_text(config, tiny: bool) -> dict[str, float]:
  """T5 on the two prompts of guidance."""
  model = text_encoder(tiny)
  params = random_params(model.shapes, "bfloat16")
  shape = 2, config.text.max_tokens
  ids, mask = np.ones(shape, np.int32), np.ones(shape, bool)
  run = jax.jit(model.apply)
  return seconds(lambda: run(params, ids, mask), 3)


def sample(config, wanted) -> tuple[dict[str, float], list]:
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

  latents = []

  def run():
    units = generate_units(velocity, wanted, schedule, text, keys=keys)
    latents[:] = [ends[-1] for ends in units]
    return latents

  return seconds(run, 3), latents


def decode(config, latents: list) -> dict[str, float]:
  """The VAE, unit by unit."""
  vae, chunk = decoder(config)
  params = random_params(vae.shapes, "bfloat16")

  def run():
    cache = None
    for z in latents:
      pixels, cache = chunk(params, z, cache)
    return pixels

  return seconds(run, 3)


def identity() -> dict:
  """Of all lines that this device and these versions give."""
  device = jax.devices()[0]
  about = versions() | {"runtime": device.client.platform_version}
  return {"device": device.device_kind, "versions": about}


def run(case: dict, tiny: bool) -> dict:
  """One case in this process."""
  device = jax.devices()[0]
  line = identity() | case | ({"tiny": True} if tiny else {})
  if case["part"] == "train":  # of a step that does not fit, too
    line |= estimate_or_why(config_of(case, tiny))
  try:
    line |= globals()[case["part"]](case, tiny)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    why = ""
    if device.platform == "gpu":
      chip = chips.of_kind(device.device_kind)
      why = taken_by_others(device.memory_stats() or {}, chip)
    reason = str(error).splitlines()[0][:200]
    line |= {"failed": why} if why else {"out_of_memory": reason}
  memory = device.memory_stats() or {}
  line["peak_gib"] = memory.get("peak_bytes_in_use", float("nan")) / 2**30
  return line


def run_or_compile(case: dict, tiny: bool, topology: str) -> dict:
  """One case here, or compiled for a device that need not be there.

  Of no case ({}), what the lines of all have in common.
  """
  if not case:
    return identity()
  if not topology:
    return run(case, tiny)
  import accelerator_compile

  return accelerator_compile.run(case, tiny, topology)


def parse() -> argparse.Namespace:
  """The flags."""
  flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  flags.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
  flags.add_argument("--tiny", action="store_true", help="small sizes")
  flags.add_argument("--case", type=json.loads, help="one case, as JSON")
  flags.add_argument("--kept", type=pathlib.Path, help="file of lines so far")
  flags.add_argument(
    "--cache", type=pathlib.Path, default=CACHE, help="of compiled programs"
  )
  flags.add_argument(
    "--compile", default="", metavar="TOPOLOGY",
    help="compile for one device of it, such as h100:1 or v5p:2x2x1",
  )  # fmt: skip
  given = flags.parse_args()
  if unknown := set(given.parts) - set(PARTS):
    flags.error(f"{', '.join(unknown)}: there are {', '.join(PARTS)}.")
  return given


def main() -> int:
  given = parse()
  if given.case is not None:
    line = run_or_compile(given.case, given.tiny, given.compile)
    print(json.dumps(line), flush=True)
    return 0
  environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", **os.environ}
  if not given.compile:
    # a step that was compiled for its estimate is not compiled again, nor what
    # was compiled for a case that was interrupted
    environment["JAX_COMPILATION_CACHE_DIR"] = str(given.cache)

  def in_a_process(case: dict) -> tuple[int, str]:
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    command += ["--tiny"] * given.tiny + [f"--compile={given.compile}"]
    return children.run(command, environment)

  known = lines_of(given.kept)
  if known and given.compile:
    known = having(known, compiled_for=given.compile, versions=versions())
  elif known:
    code, printed = in_a_process({})
    if code:
      return code
    known = having(known, **json.loads(printed))
  known = [x for x in known if x.get("tiny", False) == given.tiny]
  failed = 0
  for case in cases(given.parts or list(PARTS)):
    if having(known, **case):
      continue
    code, printed = in_a_process(case)
    failed += code != 0
    print(printed, end="", flush=True)
    if given.kept and not code:
      with given.kept.open("a") as file:
        file.write(printed)
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main())
