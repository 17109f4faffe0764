"""pyramid-generate --benchmark: all clips of a benchmark, on several hosts."""

import logging
import pathlib

from absl import flags

from pyramid_jax.cli import (
  app,
  compilation,
  mesh_flag,
  processes,
  sampler_flags,
)
from pyramid_jax.config import ConfigError
from pyramid_jax.generate import benchmark

F = flags.FLAGS
log = logging.getLogger("pyramid_jax.benchmark")
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

  from pyramid_jax import checkpoint, sharding
  from pyramid_jax.config import MeshConfig
  from pyramid_jax.generate.clips import Request, generate_missing, is_made

  mesh = mesh_flag.get()
  mesh = mesh or sharding.make_mesh(MeshConfig(), jax.local_devices())
  pipeline = sampler_flags.load(F.workdir, mesh)
  changed = sampler_flags.changes(pipeline.config.generate.fps)
  changed = {"frames": kind.frames, **changed}
  options = pipeline.options(**changed)
  benchmark.check_fps(options.fps, F.workdir)
  pipeline.plan(options)
  settings = {
    "workdir": str(pathlib.Path(F.workdir).absolute()),
    "weights": F.weights,
    "step": checkpoint.latest_step(F.workdir),
    **_given_parts(),
    **pipeline.recipe(options, F.seed),
  }
  benchmark.keep_manifest(F.out, F.benchmark, clips, settings)
  benchmark.tell_differences(F.benchmark, clips, options.frames)
  mine = clips[jax.process_index() :: jax.process_count()]
  requests = [Request(c.prompt, c.path, number=c.number) for c in mine]
  made = generate_missing(
    pipeline, requests, seed=F.seed, batch=F.batch, **changed
  )
  rest = {c.path for c in clips} - {c.path for c in mine}

  def others_are_done() -> bool:
    rest.difference_update([path for path in rest if is_made(path)])
    return not rest

  # they may be far behind, and who leaves must not take them along
  if not others_are_done():
    log.info("%s: waiting for %d clips of other processes", F.out, len(rest))
    processes.wait_until(others_are_done, seconds=2)
  print(f"{F.out}: {len(mine)} clips, {len(mine) - made} of them from before")
  print(f"{pipeline.phases}\n{programs}")


def _given_parts() -> dict[str, str]:
  """Folders of a VAE and text encoder that no fingerprint holds together."""
  from pyramid_jax import checkpoint

  latents = checkpoint.read_meta(F.workdir, "dit")[1]["latents"]
  return {
    name: str(pathlib.Path(F[name].value).absolute())
    for name in ("vae", "text")
    if F[name].value and not latents[f"{name}_fingerprint"]
  }
