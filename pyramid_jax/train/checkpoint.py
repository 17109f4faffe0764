"""Checkpoints of a run: saved beside, renamed when whole, the last few kept.

A step's folder has the items params, ema, opt, progress (counters) and meta
(JSON: the config and what belongs to the weights, such as latent statistics).
"""

import dataclasses
import errno
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from pyramid_jax import config as config_lib
from pyramid_jax.config import Config, ConfigError
from pyramid_jax.models.pure import Params
from pyramid_jax.train.state import TrainState


class CheckpointError(ConfigError):
  """A checkpoint that is missing, does not fit or cannot be written."""


COUNTERS = ("step", "skipped", "last_skipped")


class Checkpoints:
  """The checkpoints of a workdir, oldest to newest."""

  def __init__(self, workdir: pathlib.Path, keep: int = 3):
    self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
    self.manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True
      ),
    )

  @property
  def latest(self) -> int | None:
    """The newest step that was saved whole."""
    return self.manager.latest_step()

  def save(self, state: TrainState, config: Config, **meta: Any):
    """Starts saving a state; the next save, or `wait`, finishes it.

    Raises:
      CheckpointError: the disk is full; earlier checkpoints stay.
    """
    counters = {k: getattr(state, k) for k in COUNTERS}
    step = int(state.step)
    if step in self.manager.all_steps():
      return
    with _full_disk(self.folder):
      self.manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          ema=ocp.args.StandardSave(state.ema),
          opt=ocp.args.StandardSave(state.opt),
          progress=ocp.args.StandardSave(counters),
          meta=ocp.args.JsonSave(
            {"config": dataclasses.asdict(config), **meta}
          ),
        ),
      )

  def wait(self):
    """Returns when everything is on disk.

    Raises:
      CheckpointError: as `save`.
    """
    with _full_disk(self.folder):
      self.manager.wait_until_finished()

  def close(self):
    """Finishes saving and lets go of the folder."""
    with _full_disk(self.folder):
      self.manager.close()

  def restore(
    self, shapes: TrainState, shardings: TrainState, config: Config
  ) -> tuple[TrainState, dict[str, Any]]:
    """The newest state in its place on this mesh, and its meta.

    Raises:
      CheckpointError: the checkpoint is of another model or other data; every
        setting that differs is named.
    """
    step = self.latest
    meta = self._meta(step)
    require_same(_config(meta), config, self.folder)
    target = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      shardings,
    )
    items = self.manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(target.params),
        ema=ocp.args.StandardRestore(target.ema),
        opt=ocp.args.StandardRestore(target.opt),
        progress=ocp.args.StandardRestore(
          {k: getattr(target, k) for k in COUNTERS}
        ),
      ),
    )
    return TrainState(
      params=items["params"], ema=items["ema"], opt=items["opt"],
      **items["progress"],
    ), meta  # fmt: skip

  def weights(self, shapes: Params, shardings: Params, item="ema") -> Params:
    """The newest weights alone, moving average by default."""
    target = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      shardings,
    )
    restored = self.manager.restore(
      self.latest,
      args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)}),
    )
    return restored[item]

  def _meta(self, step: int) -> dict[str, Any]:
    return self.manager.restore(
      step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    )["meta"]


def open_trained(workdir: str | pathlib.Path, kind: str):
  """A finished or running workdir to read weights from.

  Returns:
    its checkpoints, config and meta.

  Raises:
    CheckpointError: there is none, or it is of the other kind of model.
  """
  folder = pathlib.Path(workdir) / "checkpoints"
  if not folder.is_dir() or Checkpoints(pathlib.Path(workdir)).latest is None:
    raise CheckpointError(
      f"{workdir} has no checkpoint (looked for {folder}/<step>). Train one "
      "with pyramid-train --workdir, or give the workdir of one."
    )
  checkpoints = Checkpoints(pathlib.Path(workdir))
  meta = checkpoints._meta(checkpoints.latest)
  config = _config(meta)
  if config.kind != kind:
    raise CheckpointError(
      f"{workdir} holds a checkpoint of kind {config.kind!r}; this needs one "
      f"of kind {kind!r}."
    )
  return checkpoints, config, meta


# Settings that may differ between a run and its continuation.
FREE = ("mesh", "train", "generate", "encode", "text")


def require_same(old: Config, new: Config, folder: pathlib.Path):
  """Refuses to continue a checkpoint as another run.

  Raises:
    CheckpointError: names every setting of model or data that differs.
  """
  lines = [
    line
    for line in config_lib.differences(old, new)
    if line.split(".")[1].split(":")[0] not in FREE and ".workers:" not in line
  ]
  used = {"dit": ("vae", "vae_loss", "videos"), "vae": ("model", "latents")}
  lines = [
    line
    for line in lines
    if line.split(".")[1].split(":")[0] not in used.get(new.kind, ())
  ]
  fatal = [line for line in lines if ".optimizer." not in line]
  if fatal:
    raise CheckpointError(
      f"{folder} was trained with other settings: {'; '.join(fatal)}. "
      "Continue with the same ones, or choose a new --workdir."
    )
  if lines:
    logging.getLogger(__name__).warning(
      "continuing with changed settings: %s", "; ".join(lines)
    )


def _config(meta: Mapping[str, Any]) -> Config:
  return config_lib.from_dict(Config, meta["config"])


class _full_disk:
  """Turns the many faces of a full disk into one clear error."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    cause = error
    while cause is not None:
      full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
      if full or "No space left" in str(cause) or "RESOURCE_EXHAUSTED" in str(cause):
        raise CheckpointError(
          f"the disk of {self.folder} is full; the checkpoint was not written "
          "and earlier ones are whole. Free some space and start the same "
          "command again."
        ) from error
      cause = cause.__cause__ or cause.__context__
    return False
