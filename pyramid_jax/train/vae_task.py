"""Training of the VAE, from a config: clips, step, PSNR, latent statistics."""

import dataclasses
import pathlib

import jax
import numpy as np

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError
from pyramid_jax.data import clips as clips_lib
from pyramid_jax.data.files import write_skipped
from pyramid_jax.data.latents import Statistics
from pyramid_jax.data.sizes import check_frames
from pyramid_jax.models import critic
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import Pure, pure
from pyramid_jax.train import vae
from pyramid_jax.train.loop import Task
from pyramid_jax.train.optimizer import make_optimizer
from pyramid_jax.train.program import Program
from pyramid_jax.train.state import TrainState

STATISTICS_BATCHES = 16  # of the last phase


def make_program(config: Config) -> Program:
  """Model, optimizer and step of a config; needs no data.

  Raises:
    ConfigError: phases that do not fit the run, the VAE or the microbatches.
  """
  train, phases = config.train, config.videos.phases
  steps = sum(phase.steps for phase in phases)
  if steps != train.steps:
    raise ConfigError(
      f"the phases of config.videos have {steps} steps in all, "
      f"config.train.steps is {train.steps}; make them equal."
    )
  for phase in phases:
    check_frames(phase.frames, config.flow, config.vae)
    if not phase.rate > 0:
      raise ConfigError(
        f"a phase's rate {phase.rate:g} must be above 0; it multiplies "
        f"config.optimizer.learning_rate {config.optimizer.learning_rate:g}."
      )
    if phase.batch % train.microbatches:
      raise ConfigError(
        f"a phase's batch {phase.batch} is not a multiple of "
        f"config.train.microbatches {train.microbatches}."
      )
  model = pure(lambda rngs: vae_lib.VAE(config.vae, rngs=rngs))
  tx = make_optimizer(
    config.optimizer, model.axes, *((p.steps, p.rate) for p in phases)
  )
  step = vae.make_step(
    model, tx, config.vae_loss, train.microbatches, config.optimizer.ema
  )
  return Program(model, tx, step)


def make_task(
  config: Config, mesh: jax.sharding.Mesh, workdir: pathlib.Path | None = None
) -> Task:
  """Everything that the loop needs to train a VAE on the config's clips.

  `workdir` gets skipped.jsonl, the files that are left out, with the reasons.

  Raises:
    ConfigError: data that are missing, or phases that do not fit.
  """
  program = make_program(config)
  clips = clips_lib.TrainingClips(config.videos, config.seed)
  if workdir and jax.process_index() == 0:
    listed = workdir / "skipped.jsonl"
    if clips.skipped or listed.exists():  # no list of another time stays
      write_skipped(listed, clips.skipped)

  def places(rows):
    return sharding.local_rows(mesh, rows)

  return Task(
    **program._asdict(),
    batches=lambda step: clips.batches(step, places),
    rows=clips.rows,
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
  encode = jax.jit(
    lambda params, video: vae_lib.posterior(
      model.apply(params, video, method="encode")
    )
  )
  decode = jax.jit(lambda params, z: model.apply(params, z, method="decode"))
  last = sum(phase.steps for phase in config.videos.phases)
  rows = clips.rows(last)

  def place(batch):
    return sharding.place_batch(mesh, batch, rows)

  def stored(batch):
    """The latents as `pyramid-encode` will store them."""
    posterior = encode(state.ema, place(batch["video"]))
    if not config.vae.sample:
      return posterior.mode
    key, index = jax.random.key(config.seed), place(batch["index"])
    return posterior.sample(vae.draw(key, index, posterior.mean.shape[1:]))

  batches = clips.batches(last, lambda rows: sharding.local_rows(mesh, rows))
  first, later = [], []
  for _ in range(STATISTICS_BATCHES):
    z = np.asarray(stored(next(batches)))
    first.append(z[:, :1].ravel())
    later.append(z[:, 1:].ravel())
  held = clips.heldout(config.train.eval_clips)
  scores = []
  for start in range(0, len(held), rows):
    part = held[start : start + rows]
    video = np.stack([*part, *[part[-1]] * (rows - len(part))])
    pixels = decode(state.ema, encode(state.ema, place(video)).mode)
    scores += list(np.asarray(critic.psnr(pixels, video))[: len(part)])
  psnr = float(np.mean(scores))
  print(f"PSNR on {len(scores)} held-out clips: {psnr:.2f} dB", flush=True)
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
