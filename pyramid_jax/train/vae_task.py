"""Training of the VAE, from a config: clips, step, PSNR, latent statistics."""

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
from pyramid_jax.models import critic
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import Pure
from pyramid_jax.train import vae
from pyramid_jax.train.judges import load_lpips
from pyramid_jax.train.loop import Task
from pyramid_jax.train.metrics import say
from pyramid_jax.train.state import TrainState

STATISTICS_BATCHES = 16  # of the last phase


def make_task(
  config: Config, mesh: jax.sharding.Mesh, workdir: pathlib.Path | None = None
) -> Task:
  """Everything that the loop needs to train a VAE on the config's clips.

  `workdir` gets skipped.jsonl, the files that are left out, with the reasons.

  Raises:
    ConfigError: data that are missing, or phases that do not fit.
  """
  program = vae.make_program(config)
  clips = clips_lib.TrainingClips(config.videos, config.seed)
  if workdir and jax.process_index() == 0:
    listed = workdir / "skipped.jsonl"
    if clips.skipped or listed.exists():  # no list of another time stays
      write_skipped(listed, clips.skipped)

  def places(rows):
    return sharding.local_rows(mesh, rows)

  return Task(
    program=program,
    frozen={
      name: load_lpips(config, model, mesh)
      for name, model in program.frozen.items()
    },
    batches=lambda step: clips.batches(step, places),
    rows=clips.rows,
    samples=clips.samples,
    unit="frames",
    items=lambda batch: float(np.prod(batch["video"].shape[:2])),
    finish=lambda state: finish(config, mesh, program.model, clips, state),
  )


def finish(
  config: Config,
  mesh: jax.sharding.Mesh,
  model: Pure,
  clips: clips_lib.TrainingClips,
  state: TrainState,
):
  """PSNR on held-out clips and statistics of the latents, of the EMA weights.

  Returns:
    metrics {"psnr"}, and meta {"statistics"} for the checkpoint.
  """
  last = sum(phase.steps for phase in config.videos.phases)
  rows = clips.rows(last)
  mine = sharding.local_rows(mesh, rows)
  # whole on every device, so that each process reads the numbers of all
  on_all = functools.partial(jax.jit, out_shardings=sharding.sharding(mesh))

  @on_all
  def stored(params, batch):
    """The latents as `pyramid-encode` will store them."""
    moments = model.apply(params, batch["video"], method="encode")
    posterior = vae_lib.posterior(moments)
    if not config.vae.sample:
      return posterior.mode
    key = jax.random.key(config.seed)
    eps = vae.draw(key, batch["index"], posterior.mean.shape[1:])
    return posterior.sample(eps)

  @on_all
  def score(params, video):
    moments = model.apply(params, video, method="encode")
    mean = vae_lib.posterior(moments).mean
    return critic.psnr(model.apply(params, mean, method="decode"), video)

  batches = clips.batches(last, lambda rows: mine)
  first, later = [], []
  for _ in range(STATISTICS_BATCHES):
    batch = sharding.place_batch(mesh, next(batches), rows)
    z = np.asarray(stored(state.ema, batch))
    first.append(z[:, :1].ravel())
    later.append(z[:, 1:].ravel())
  held = clips.heldout(config.train.eval_clips)
  scores = []
  for start in range(0, len(held), rows):
    part = held[start : start + rows]
    video = np.stack([*part, *[part[-1]] * (rows - len(part))])
    placed = sharding.place_batch(mesh, video[mine], rows)
    scores += list(np.asarray(score(state.ema, placed))[: len(part)])
  psnr = float(np.mean(scores))
  say(f"PSNR on {len(scores)} held-out clips: {psnr:.2f} dB")
  return {"psnr": psnr}, {"statistics": statistics(first, later)}


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
