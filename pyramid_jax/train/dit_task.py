"""Training of the diffusion transformer, from a config: data, model, step."""

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError, LatentDataConfig
from pyramid_jax.data import latents, pipeline
from pyramid_jax.data.curriculum import Curriculum
from pyramid_jax.data.rows import TokenSpec
from pyramid_jax.train import dit
from pyramid_jax.train.accumulate import check_parts
from pyramid_jax.train.loop import Task
from pyramid_jax.train.metrics import say

log = logging.getLogger(__name__)


def make_task(
  config: Config, mesh: jax.sharding.Mesh, workdir: pathlib.Path | None = None
) -> Task:
  """Everything that the loop needs to train on the config's stored latents.

  `workdir` is what every task is told; this one keeps nothing there.

  Raises:
    ConfigError: datasets that are missing, do not fit the model or the rows.
  """
  parts = sharding.parts("tokens", mesh)
  dit.check_row(config, mesh.devices.flat[0].platform, parts)
  data, program = config.latents, dit.make_program(config)
  stores = latents.open_stores([source.path for source in data.sources])
  metadata = stores[0].metadata
  _require_fit(config, stores)
  plan = Curriculum(stores, data, config.flow, config.model.patch, config.seed)
  _tell_unreached(data, config.train.steps)
  _tell_fill(plan)
  spec = TokenSpec.of(config.flow, config.model)
  check_parts(mesh, "config.latents.rows", data.rows, config.train.microbatches)
  mine = sharding.local_rows(mesh, data.rows)

  def batches(step: int) -> Iterator[dict[str, np.ndarray]]:
    return pipeline.batches(stores, plan, spec, step * data.rows, mine)

  return Task(
    program=program,
    batches=batches,
    rows=lambda step: range(step * data.rows, (step + 1) * data.rows),
    samples=lambda step: _samples(stores, plan, step),
    unit="tokens",
    items=lambda rows: float(
      (rows["segment"] > 0).sum() + (rows["text_segment"] > 0).sum()
    ),
    finish=None,
    meta={
      "latents": dataclasses.asdict(metadata),
      "plan": plan.settings,
    },
  )


def _tell_fill(plan: Curriculum):
  """Says how many samples the first rows hold, and how much is padding."""
  config, first = plan.config, plan.planners[0]
  rows = first.window(0)
  samples = config.segments_per_clip * len(rows.samples.latent) / len(rows)
  say(
    f"rows: {config.rows} a step, {first.fill():.1%} full, "
    f"{config.rows * samples:,.1f} samples a step"
  )


def _tell_unreached(data: LatentDataConfig, steps: int):
  """Warns of periods of which a run takes no step."""
  starts = itertools.accumulate(p.steps for p in data.periods[:-1])
  for i, start in enumerate(starts, 1):
    if start >= steps:
      log.warning(
        "config.latents.periods[%d] begins at step %s, and config.train.steps "
        "is %s: it is not trained on.",
        i,
        f"{start:,}",
        f"{steps:,}",
      )


def _samples(
  stores: Sequence[latents.LatentStore], plan: Curriculum, step: int
) -> list[str]:
  """FOLDER:NUMBER of every stored clip in a step's rows."""
  count = plan.config.rows
  return [
    f"{stores[pick.source].path}:{pick.sample}"
    for row in range(step * count, (step + 1) * count)
    for pick in plan.row(row)
  ]


def _require_fit(config: Config, stores: Sequence[latents.LatentStore]):
  """Refuses latents and text that the model has no place for."""
  model, metadata = config.model, stores[0].metadata
  for name, mine, stored in (
    ("latent_channels", model.latent_channels, metadata.latent_channels),
    ("text_dim", model.text_dim, metadata.text_dim),
    ("pooled_dim", model.pooled_dim, metadata.pooled_dim),
  ):
    if mine != stored:
      raise ConfigError(
        f"config.model.{name} is {mine}, but the stored dataset "
        f"{stores[0].path} has {stored}. Set it to {stored}, or encode with "
        "other encoders."
      )
  for store in stores:
    lengths = store.lengths
    side = max(lengths.height.max(), lengths.width.max()) // model.patch
    if model.grid is not None and side > model.grid:
      raise ConfigError(
        f"config.model.table_size is {model.grid}, but clips of "
        f"{store.path} are up to {side} patches a side. Set it to {side} at "
        "least, or encode smaller clips."
      )
