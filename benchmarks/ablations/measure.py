"""What the latents of a trained transformer are like.

Frechet distance to held-out clips, neighbours within and across 2 x 2 blocks;
with --paths how straight the paths of its flow are, and what few steps cost.

Legend: N clips, T frames, h w latent pixels, Z channels, K stages.
"""

import argparse
import itertools
import json
import pathlib
import secrets
import sys

import jax
import numpy as np

from pyramid_jax import checkpoint, sharding
from pyramid_jax.config import Config, MeshConfig
from pyramid_jax.cost import workload
from pyramid_jax.data.sizes import schedule_of
from pyramid_jax.evals import features, frechet
from pyramid_jax.evals.shapes_run import Dataset
from pyramid_jax.flow import sampler
from pyramid_jax.flow.schedule import inference_table, make_schedule
from pyramid_jax.generate.pipeline import Pipeline
from pyramid_jax.models.dit import make_dit

CELLS = 1  # places a side of what latents are averaged over
BATCH = 16
PATH_STEPS, REFERENCE, PATH_FRAMES = (1, 2, 4, 8, 16), 64, 9


def generated(pipeline: Pipeline, prompts, seed: int, **changes) -> np.ndarray:
  """Normalised latents [N, T, h, w, Z] of the prompts."""
  options = pipeline.options(**changes)
  parts = []
  for start in range(0, len(prompts), BATCH):
    part = prompts[start : start + BATCH]
    units = pipeline.latents(part, options, seed=seed, first=start)
    clip = np.concatenate([np.asarray(ends[-1]) for ends in units], 1)
    parts.append(clip[: len(part)])
  return np.concatenate(parts)


def heldout(
  pipeline: Pipeline, dataset: Dataset, count: int, path: pathlib.Path
) -> np.ndarray:
  """Normalised latents of held-out clips, encoded once and kept in `path`."""
  if path.exists():
    return np.load(path)["latents"]
  vae, parts = pipeline.vae, []
  questions = dataset.heldout(count)
  for start in range(0, count, BATCH):
    clips = [q.truth for q in questions[start : start + BATCH]]
    ids = [f"heldout {start + i}" for i in range(len(clips))]
    z = vae.encode(clips, ids, 8, BATCH)
    parts += [vae.statistics.normalise(x) for x in z]
  path.parent.mkdir(parents=True, exist_ok=True)
  # others may be at it as well
  beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial.npz")
  np.savez(beside, latents=np.stack(parts))
  beside.replace(path)
  return np.stack(parts)


def distance(a_NThwZ: np.ndarray, b_NThwZ: np.ndarray) -> float:
  """The Frechet distance of pooled latents."""
  return frechet.frechet_distance(
    *(
      frechet.Moments.of(np.stack([features.pooled(z, CELLS) for z in x]))
      for x in (a_NThwZ, b_NThwZ)
    )
  )


def neighbours(z_NThwZ: np.ndarray) -> dict[str, float]:
  """Correlation of neighbours in a 2 x 2 block, and across its border.

  Each channel is taken at zero mean and unit variance; along y and x together.
  """
  z = z_NThwZ - z_NThwZ.mean((0, 1, 2, 3))
  z = z / z.std((0, 1, 2, 3))

  def correlation(first: int) -> float:
    products = [[], [], []]
    for axis in (2, 3):
      x = np.moveaxis(z, axis, 0)
      size = len(x) - (len(x) - first) % 2
      a, b = x[first:size:2], x[first + 1 : size : 2]
      for kept, values in zip(products, (a * b, a * a, b * b), strict=True):
        kept.append(values.ravel())
    ab, aa, bb = (np.concatenate(p).mean() for p in products)
    return float(ab / np.sqrt(aa * bb))

  return {"inside": correlation(0), "across": correlation(1)}


def work(config: Config) -> dict[str, float]:
  """What a training step computes."""
  data, w = config.latents, workload.measure(config, (128, 128))
  tokens = data.latent_tokens + data.text_tokens
  return {
    "rows": data.rows,
    "latent tokens": data.latent_tokens,
    "text tokens": data.text_tokens,
    "fill": (w.latent + w.text) / tokens,
    "segments": data.rows * w.samples,
    "flops": workload.model_flops(config, w),
  }


def paths(workdir: str, pipeline: Pipeline, prompts, seed: int) -> dict:
  """How straight the flow is within each stage, and what few steps cost.

  With v_i the velocity of step i and w_i its share of the stage, the
  straightness is sum w_i |v_i - v|^2 / |v|^2, where v = sum w_i v_i leads from
  the stage's start to its end; 0 is straight. The error of n steps a stage is
  the distance to REFERENCE steps from the same noise, as a share of the
  deviation of those samples. Both without guidance.
  """
  config = pipeline.config
  K, schedule = config.flow.stages, schedule_of(config.flow)
  mesh = sharding.make_mesh(MeshConfig())
  params = checkpoint.load_trained(
    workdir, "dit", lambda config: make_dit(config.model), mesh
  ).params
  apply, calls = jax.jit(make_dit(config.model).apply), []

  def velocity(x, rows, timestep):
    calls.append(apply(params, x, rows, timestep))
    return calls[-1]

  keys = jax.random.split(jax.random.key(seed), len(prompts))
  text = text_rows(pipeline, prompts)

  def sample(n: int):
    calls.clear()
    options = pipeline.options(
      frames=PATH_FRAMES, steps=(n,) * K, video_steps=(n,) * K,
      guidance=0.0, video_guidance=0.0,
    )  # fmt: skip
    with jax.set_mesh(mesh):
      return list(
        sampler.generate_units(
          velocity, pipeline.plan(options), schedule, text, keys=keys,
          program=sampler.sample_unit_loop,
        )
      )  # fmt: skip

  units = sample(REFERENCE)
  bends = straightness(units, calls, config.model.patch)
  whole = lambda units: np.concatenate([ends[-1] for ends in units], 1)
  target = whole(units)
  error = lambda n: np.sqrt(np.square(whole(sample(n)) - target).mean())
  return {
    "straightness": bends,
    "errors": {str(n): float(error(n) / target.std()) for n in PATH_STEPS},
  }


def straightness(units, calls, patch: int) -> list[float]:
  """Of each stage, the mean over samples and units; see `paths`."""
  found, left = [], iter(calls)
  shares = step_shares(REFERENCE)
  for ends in units:
    bends = []
    for end in ends:
      n = int(np.prod(end.shape[1:4])) // patch**2
      v = np.stack(
        [np.asarray(x)[:, -n:] for x in itertools.islice(left, REFERENCE)]
      )
      mean = np.einsum("i,iBnD->BnD", shares, v)
      spread = np.einsum("i,iBnD->B", shares, np.square(v - mean))
      bends.append((spread / np.square(mean).sum((1, 2))).mean())
    found.append(bends)
  return np.mean(found, 0).tolist()


def step_shares(steps: int) -> np.ndarray:
  """The part of a stage that each Euler step covers; they sum to 1."""
  return -np.diff(inference_table(make_schedule(), 0, steps)[1])


def text_rows(pipeline: Pipeline, prompts) -> dict[str, np.ndarray]:
  """The prompts as the sampler takes them, without negative ones."""
  found = pipeline.text.encode(prompts)
  M = max(len(text) for text, _ in found)
  fill = lambda x, width: np.pad(x, [(0, M - len(x)), *width])
  return {
    "text": np.stack([fill(np.float32(x), [(0, 0)]) for x, _ in found]),
    "text_segment": np.stack(
      [fill(np.ones(len(x), np.int32), []) for x, _ in found]
    ),
    "pooled": np.stack([pooled for _, pooled in found])[:, None],
  }


def main() -> int:
  """Measures one run and writes --out."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--heldout", required=True, type=pathlib.Path)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--clips", required=True, type=int)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--norenoise", action="store_true")
  parser.add_argument("--paths", action="store_true")
  given = parser.parse_args()
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  pipeline = Pipeline.load(given.workdir)
  dataset = Dataset(pipeline.config.videos.path)
  prompts = [q.prompt for q in dataset.heldout(given.clips)]
  if given.paths:
    found = paths(given.workdir, pipeline, prompts[:BATCH], given.seed)
  else:
    # twice as many: the second half says how far true clips are from true ones
    true = heldout(pipeline, dataset, 2 * given.clips, given.heldout)
    true, others = np.split(true, 2)
    changes = {"renoise": False} if given.norenoise else {}
    made = generated(pipeline, prompts, given.seed, **changes)
    found = {
      "frechet": distance(true, made),
      "frechet of true clips": distance(true, others),
      "blocks": neighbours(made),
      "blocks of true clips": neighbours(true),
      "work": work(pipeline.config),
    }
  given.out.parent.mkdir(parents=True, exist_ok=True)
  beside = given.out.with_name(f".{given.out.name}.partial")
  beside.write_text(json.dumps(found, indent=1))
  beside.replace(given.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
