"""Training of the VAE, from a config: clips, step, latent statistics."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from pyramid_jax import sharding
from pyramid_jax.config import Config
from pyramid_jax.data import clips as clips_lib
from pyramid_jax.data.files import write_skipped
from pyramid_jax.data.latents import Statistics
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.train import vae
from pyramid_jax.train.judges import load_lpips
from pyramid_jax.train.loop import Task
from pyramid_jax.train.state import TrainState
from pyramid_jax.train.vae_eval import HeldOut

FOREVER = 2**31 - 1  # a step is an int32 on the device
STATISTICS_BATCHES = 16  # of clips, and of images where they are mixed


def make_task(
  config: Config, mesh: jax.sharding.Mesh, workdir: pathlib.Path | None = None
) -> Task:
  """Everything that the loop needs to train a VAE on the config's clips.

  `workdir` gets skipped.jsonl, the files that are left out, with the reasons.

  Raises:
    ConfigError: data that are missing, or phases that do not fit.
  """
  program = vae.make_program(config)
  vae.check_heights(config, mesh)
  vae.check_batches(config, mesh)
  clips = clips_lib.TrainingClips(config.videos, config.seed)
  if workdir and jax.process_index() == 0:
    listed = workdir / "skipped.jsonl"
    if clips.skipped or listed.exists():  # no list of another time stays
      write_skipped(listed, clips.skipped)

  held_out = HeldOut(mesh, program.model, clips)

  def finish(state: TrainState):
    """Scores on held-out clips and statistics of the latents, of the EMA."""
    scores = held_out.report(state.ema, config.train.eval_clips)
    found = latent_statistics(config, mesh, program.model, clips, state.ema)
    return scores, {"statistics": found}

  return Task(
    program=program,
    frozen={
      name: load_lpips(config, model, mesh)
      for name, model in program.frozen.items()
    },
    batches=lambda step: clips.batches(
      range(step, FOREVER), functools.partial(sharding.local_rows, mesh)
    ),
    rows=clips.schedule.rows,
    samples=clips.samples,
    unit="frames",
    items=lambda batch: float(np.prod(batch["video"].shape[:2])),
    finish=finish,
    meta={"plan": clips.settings},
    picture=lambda state: held_out.picture(state.ema),
    like=clips.schedule.shape,
  )


def latent_statistics(
  config: Config,
  mesh: jax.sharding.Mesh,
  model: Pure,
  clips: clips_lib.TrainingClips,
  params: Params,
) -> dict[str, float]:
  """Statistics of the latents of clips of the last phase, and of its images.

  They are of the batches that would come after the last step.
  """

  # whole on every device, so that each process reads the numbers of all
  @functools.partial(jax.jit, out_shardings=sharding.sharding(mesh))
  def stored(params, batch):
    """The latents as `pyramid-encode` will store them."""
    moments = model.apply(params, batch["video"], method="encode")
    posterior = vae_lib.posterior(moments)
    if not config.vae.sample:
      return posterior.mode
    key = jax.random.key(config.seed)
    eps = vae.draw(key, batch["index"], posterior.mean.shape[1:])
    return posterior.sample(eps)

  schedule, first, later = clips.schedule, [], []
  ratio = clips.last.image_ratio
  for images in [False] * (ratio < 1) + [True] * (ratio > 0):
    steps = schedule.steps_like(images, schedule.total, STATISTICS_BATCHES)
    rows = schedule.shape(steps[0]).batch
    places = functools.partial(sharding.local_rows, mesh)
    for batch in clips.batches(steps, places):
      placed = sharding.place_batch(mesh, batch, rows)
      z = np.asarray(stored(params, placed))
      first.append(z[:, :1].ravel())
      later.append(z[:, 1:].ravel())
  return statistics(first, later)


def statistics(first: list[np.ndarray], later: list[np.ndarray]) -> dict:
  """Shift and scale that give first and later frames mean 0 and variance 1.

  A VAE that saw single frames only uses those of the first for all.
  """
  a = np.concatenate(first)
  b = np.concatenate(later)
  b = b if len(b) else a
  return dataclasses.asdict(
    Statistics(
      shift=float(a.mean()),
      scale=float(1 / a.std()),
      video_shift=float(b.mean()),
      video_scale=float(1 / b.std()),
    )
  )
