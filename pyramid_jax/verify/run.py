"""Which kinds of files there are, and how each is compared."""

from collections.abc import Callable

from pyramid_jax.config import UserError
from pyramid_jax.verify import (
  dit,
  flow,
  sampler,
  text,
  train_step,
  vae,
  vae_loss,
)
from pyramid_jax.verify.file import Reference, ReferenceFileError, kind
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report

KINDS: dict[str, Callable[[Reference, Report, Options], None]] = {
  "scheduler": flow.scheduler,
  "block_noise": flow.block_noise,
  "positions": flow.place_table,
  "stage_lengths": flow.stage_lengths,
  "noise": flow.examples,
  "noise_history": flow.examples,
  "mmdit": dit.run,
  "flux": dit.run,
  "sampler_mmdit": sampler.run,
  "sampler_flux": sampler.run,
  "train_step_mmdit": train_step.run,
  "train_step_flux": train_step.run,
  "vae": vae.rounds,
  "vae_tiled": vae.tiles,
  "vae_blocks": vae.blocks,
  "vae_pipeline": vae.to_bytes,
  "vae_loss": vae_loss.run,
  "text": text.run,
}


def verify(file: Reference, report: Report, options: Options | None = None):
  """Runs ours on a file's inputs and compares everything that it holds.

  Raises:
    ReferenceFileError: a kind that is not known, or parts that are missing or
      contradict each other.
  """
  what = kind(file)
  if what not in KINDS:
    raise ReferenceFileError(
      f"{file.path} is of kind {what!r}; known are {', '.join(KINDS)}."
    )
  try:
    KINDS[what](file, report, options or Options())
  except KeyError as error:
    raise ReferenceFileError(
      f"{file.path} lacks {error}, which a file of kind {what!r} has."
    ) from error
  except UserError:
    raise
  except (ValueError, TypeError, IndexError, RuntimeError) as error:
    # shapes or counts that contradict each other
    raise ReferenceFileError(
      f"{file.path}, of kind {what!r}, cannot be run: {error}"
    ) from error
