"""pyramid-train: trains a VAE or a diffusion transformer, or continues.

pyramid-train --config=configs/tiny.py:vae --workdir=runs/vae
pyramid-train --config=configs/tiny.py --workdir=runs/dit --data=latents

On several hosts the same command with --distributed runs on each; launch/ has
scripts for TPU pods, SLURM and GKE.
"""

import dataclasses
import pathlib
import signal

from absl import flags

from pyramid_jax.cli import app, compilation, processes
from pyramid_jax.cli import config as config_flag
from pyramid_jax.config import Config, ConfigError
from pyramid_jax.data.folders import with_folders

WRITTEN = ("workdir", "logs")  # what check_local wants a disk for

F = flags.FLAGS
INTERRUPTED = 128 + signal.SIGINT
for name in ("config", "compilation_cache", *processes.NAMES):
  flags.declare_key_flag(name)
flags.DEFINE_string(
  "workdir", None, "Where checkpoints and metrics go; continued if it exists."
)
flags.DEFINE_list(
  "data", [], "Datasets in place of the config's: latents, or clips for a VAE."
)
flags.DEFINE_integer(
  "stopped_code",
  0,
  "Exit code of a run that SIGTERM ended, after its state was saved. A "
  "scheduler that takes 0 for the end of the work needs another.",
  lower_bound=0,
  upper_bound=255,
)

flags.DEFINE_integer(
  "max_starts",
  0,
  "Starts without a new checkpoint after which the next one is refused, for "
  "schedulers that start a run whenever it ends; 0 is any number.",
  lower_bound=0,
)


def with_data(config: Config, paths: list[str]) -> Config:
  """The config with other datasets; see `data.folders.with_folders`.

  Raises:
    ConfigError: another number of them than the config mixes.
  """
  if not paths:
    return config
  if config.kind == "vae":
    if len(paths) > 1:
      raise ConfigError(
        f"--data names {len(paths)} datasets; a VAE is trained on one folder "
        "or list of clips. Put them into one."
      )
    videos = dataclasses.replace(config.videos, path=paths[0])
    return dataclasses.replace(config, videos=videos)
  latents = with_folders(config.latents, paths)
  return dataclasses.replace(config, latents=latents)


def check_local(**paths: str) -> None:
  """Refuses addresses in place of folders, which would become folders' names.

  A checkpoint is whole when its folder is renamed, which gcsfuse does file by
  file where a bucket has no folders of its own.

  Raises:
    ConfigError: names the flag.
  """
  for name, path in paths.items():
    if path and "://" in path:
      remedy = "mount the bucket, as with gcsfuse"
      if name in WRITTEN:
        remedy = (
          "give one on a disk that all hosts write and that renames folders "
          "at once, such as Filestore or NFS, or mount a bucket with "
          "hierarchical namespace"
        )
      raise ConfigError(
        f"--{name}={path} is no folder; {remedy}, and name the place."
      )


def main() -> int:
  """Checks the flags, builds the task and hands it to the loop."""
  app.require("config", "workdir")
  config = with_data(config_flag.get(), F.data)
  given = {"workdir": F.workdir, "logs": F.logs}
  given |= {"data": ",".join(F.data), "config.train.init": config.train.init}
  check_local(**given)
  # here, so that mistakes in flags are told before JAX is imported
  processes.start()
  programs = compilation.use_cache(shared=F.workdir)
  from pyramid_jax import sharding
  from pyramid_jax.cost.utilisation import utilisation
  from pyramid_jax.train import dit_task, loop, vae_task
  from pyramid_jax.train.metrics import say

  workdir = pathlib.Path(F.workdir)
  mesh = sharding.make_mesh(config.mesh)
  kind = vae_task if config.kind == "vae" else dit_task
  task = kind.make_task(config, mesh, workdir)
  try:
    mfu = utilisation(config, mesh)
    loop.run(config, workdir, mesh, task, app.STARTED, mfu, F.max_starts)
  except loop.TrainingStopped as stopped:
    say(f"{stopped} The same command continues.")
    return INTERRUPTED if stopped.interrupted else F.stopped_code
  say(f"checkpoints: {workdir}/checkpoints\nmetrics: {workdir}/metrics.jsonl")
  say(str(programs))
  return 0


def run():
  """Entry point."""
  app.run(main, config_flag.check, continues=lambda: True)


if __name__ == "__main__":
  run()
