"""pyramid-generate --benchmark: all clips of a benchmark, on several hosts."""

import logging
import pathlib

from absl import flags

from pyramid_jax.cli import app, compilation, processes, sampler_flags
from pyramid_jax.config import ConfigError
from pyramid_jax.generate import benchmark

F = flags.FLAGS
log = logging.getLogger(__name__)
ELSEWHERE = ("prompt", "heldout", "image", "video", "change", "sheet",
             "live_steps")  # fmt: skip


def main():
  """Makes what is missing of this process's clips: i with i mod N its own."""
  app.require("workdir", "prompts", "out")
  for name in ELSEWHERE:
    if F[name].value:
      raise ConfigError(f"--{name} has no place in --benchmark={F.benchmark}.")
  if F["samples"].present:
    raise ConfigError("--samples: the benchmark says how many; leave it out.")
  kind = benchmark.BENCHMARKS[F.benchmark]
  clips = benchmark.make_clips(F.benchmark, F.prompts, F.out)
  processes.start(preemption=False)
  programs = compilation.use_cache()
  import jax
  from tqdm import tqdm

  from pyramid_jax.generate.clips import Request, generate_clips

  pipeline = load()
  changed = sampler_flags.changes(pipeline.config.generate.fps)
  changed = {"frames": kind.frames, **changed}
  options = pipeline.options(**changed)
  if options.fps != benchmark.FPS:
    raise ConfigError(
      f"{F.workdir} makes {options.fps:g} frames a second; a benchmark's clips "
      f"have {benchmark.FPS:g}."
    )
  pipeline.plan(options)
  settings = {
    "workdir": str(pathlib.Path(F.workdir).absolute()),
    "weights": F.weights,
    **pipeline.recipe(options, F.seed),
  }
  benchmark.keep_manifest(F.out, F.benchmark, clips, settings)
  compare(clips, options.frames, kind)
  mine = clips[jax.process_index() :: jax.process_count()]
  todo = [clip for clip in mine if not clip.path.exists()]
  done = len(mine) - len(todo)
  with tqdm(total=len(mine), initial=done, unit="clip", disable=None) as bar:
    for start in range(0, len(todo), F.batch):
      part = todo[start : start + F.batch]
      generate_clips(
        pipeline,
        [Request(c.prompt, c.path, number=c.number) for c in part],
        seed=F.seed,
        batch=F.batch,
        **changed,
      )
      bar.update(len(part))
  print(f"{F.out}: {len(mine)} clips, {done} of them from before")
  print(f"{pipeline.phases}\n{programs}")


def load():
  """The model, on the devices of this process."""
  import jax

  from pyramid_jax import sharding
  from pyramid_jax.config import MeshConfig
  from pyramid_jax.generate.pipeline import Pipeline

  return Pipeline.load(
    F.workdir,
    vae=F.vae,
    text=F.text,
    weights=F.weights,
    mesh=sharding.make_mesh(MeshConfig(), jax.local_devices()),
    low_memory=F.low_memory,
  )


def compare(clips: list, frames: int, kind: benchmark.Benchmark):
  """Says what makes scores of these clips incomparable with published ones."""
  # where files have numbers a prompt may come again
  prompts = len({c.prompt for c in clips} if kind.named else clips)
  if (prompts, len(clips)) != (kind.prompts, kind.clips):
    log.warning(
      "%d prompts and %d clips; the full set has %d and %d",
      prompts,
      len(clips),
      kind.prompts,
      kind.clips,
    )
  if frames != kind.frames:
    log.warning(
      "%d frames a clip; published results have %d", frames, kind.frames
    )
