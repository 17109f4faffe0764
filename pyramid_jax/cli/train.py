"""pyramid-train: trains a VAE or a diffusion transformer, or continues.

pyramid-train --config=configs/tiny.py:vae --workdir=runs/vae
pyramid-train --config=configs/tiny.py --workdir=runs/dit --data=latents
"""

import dataclasses
import pathlib

from absl import flags

from pyramid_jax import sharding
from pyramid_jax.cli import app
from pyramid_jax.config import Config, ConfigError, Source
from pyramid_jax.train import loop

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where checkpoints and metrics go; continued if it exists."
)
DATA = flags.DEFINE_list(
  "data", [], "Datasets in place of the config's: latents, or clips for a VAE."
)


def with_data(config: Config, paths: list[str]) -> Config:
  """The config with other datasets; they keep the config's weights."""
  if not paths:
    return config
  if config.kind == "vae":
    videos = dataclasses.replace(config.videos, path=paths[0])
    return dataclasses.replace(config, videos=videos)
  weights = [s.weight for s in config.latents.sources]
  if len(weights) != len(paths):
    weights = [1.0] * len(paths)
  sources = tuple(map(Source, paths, weights))
  latents = dataclasses.replace(config.latents, sources=sources)
  return dataclasses.replace(config, latents=latents)


def main():
  """Checks the flags, builds the task and hands it to the loop."""
  config = with_data(app.config(), DATA.value)
  if not WORKDIR.value:
    raise ConfigError("--workdir is missing; name a folder for this run.")
  if config.kind == "vae":
    from pyramid_jax.train.vae_task import make_task
  elif config.kind == "dit":
    from pyramid_jax.train.dit_task import make_task
  else:
    raise ConfigError(f"config.kind is {config.kind!r}; 'vae' or 'dit'.")
  workdir = pathlib.Path(WORKDIR.value)
  mesh = sharding.make_mesh(config.mesh)
  loop.run(config, workdir, mesh, make_task(config, mesh))
  print(f"checkpoints: {workdir}/checkpoints\nmetrics: {workdir}/metrics.jsonl")


def run():
  """Entry point."""
  app.run(main)


if __name__ == "__main__":
  run()
