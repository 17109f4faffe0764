"""Checkpoints of a run: written beside, renamed when whole, the last few kept.

A step's folder holds named trees of arrays (params, ema, opt, progress) and
meta: the config and what belongs to the weights, such as latent statistics.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from pyramid_jax.config import Config, UserError, differences, from_dict


class CheckpointError(UserError):
  """A checkpoint that is missing, does not fit or cannot be written."""


class Checkpoints:
  """The checkpoints of a workdir."""

  def __init__(self, workdir: str | pathlib.Path, keep: int = 3):
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

  def save(
    self, step: int, items: Mapping[str, Any], config: Config, **meta: Any
  ):
    """Starts saving trees of arrays; the next save, or `wait`, finishes it.

    A step that is there already is left alone.

    Raises:
      CheckpointError: the disk is full; earlier checkpoints stay.
    """
    if step in self.manager.all_steps():
      return
    self._require_space(items)
    saved = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    meta = {"config": dataclasses.asdict(config), **meta}
    with _full_disk(self.folder):
      self.manager.save(
        step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))
      )

  def _require_space(self, items: Mapping[str, Any]):
    """Refuses a save for which there is no room, before anything is written."""
    usage = shutil.disk_usage(self.folder)
    need = sum(map(_bytes_here, jax.tree.leaves(items)))
    if usage.free < need and usage.total:
      raise CheckpointError(
        f"the disk of {self.folder} is full: a checkpoint needs "
        f"{need / 2**20:.1f} MiB, {usage.free / 2**20:.1f} MiB are free. "
        "Earlier checkpoints are whole. Free some space and start the same "
        "command again."
      )

  def wait(self):
    """Returns when everything is on disk; raises as `save`."""
    with _full_disk(self.folder):
      self.manager.wait_until_finished()

  def close(self):
    """Finishes saving and lets go of the folder; raises as `save`."""
    with _full_disk(self.folder):
      self.manager.close()

  def restore(self, targets: Mapping[str, Any]) -> dict[str, Any]:
    """The newest trees; `targets` has their shapes, dtypes and shardings."""
    items = {k: ocp.args.StandardRestore(v) for k, v in targets.items()}
    restored = self.manager.restore(
      self.latest, args=ocp.args.Composite(**items)
    )
    return {k: restored[k] for k in targets}

  def meta(self) -> tuple[Config, dict[str, Any]]:
    """The newest config, and what else was saved with it."""
    meta = self.manager.restore(
      self.latest, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    )["meta"]
    return from_dict(Config, meta.pop("config")), meta


def open_trained(
  workdir: str | pathlib.Path, kind: str
) -> tuple[Checkpoints, Config, dict[str, Any]]:
  """A workdir to read weights from: its checkpoints, config and meta.

  Raises:
    CheckpointError: there is none, or it is of the other kind of model.
  """
  workdir = pathlib.Path(workdir)
  there = (workdir / "checkpoints").is_dir()
  checkpoints = Checkpoints(workdir) if there else None
  if checkpoints is None or checkpoints.latest is None:
    raise CheckpointError(
      f"{workdir} has no checkpoint (none in {workdir / 'checkpoints'}). Give "
      "the --workdir of a finished pyramid-train."
    )
  config, meta = checkpoints.meta()
  if config.kind != kind:
    checkpoints.close()
    raise CheckpointError(
      f"{workdir} holds a checkpoint of kind {config.kind!r}; this needs one "
      f"of kind {kind!r}."
    )
  return checkpoints, config, meta


def _bytes_here(x: Any) -> int:
  """How much of an array this process writes."""
  if not isinstance(x, jax.Array):
    return np.asarray(x).nbytes
  mine = [s.data for s in x.addressable_shards if s.replica_id == 0]
  return sum(data.nbytes for data in mine)


def placed(shapes: Any, shardings: Any) -> Any:
  """A target for `restore`: each array's shape and dtype in its place."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )


# Groups of settings that decide what a run's weights are and what it reads.
FIXED = {
  "dit": ("kind", "seed", "flow", "model", "latents"),
  "vae": ("kind", "seed", "vae", "vae_loss", "videos"),
}


def require_same(old: Config, new: Config, folder: pathlib.Path):
  """Refuses to continue a checkpoint as a run of another model or data.

  Optimizer, lengths, mesh and reports may change, and the number of loaders.

  Raises:
    CheckpointError: names every setting that differs.
  """
  lines = [
    line
    for group in FIXED.get(old.kind, ("kind",))
    for line in differences(
      getattr(old, group), getattr(new, group), f"config.{group}"
    )
    if not line.startswith(("config.latents.workers", "config.videos.workers"))
  ]
  if lines:
    raise CheckpointError(
      f"{folder} was trained with other settings (its -> now): "
      f"{'; '.join(lines)}. Use the same ones, or another --workdir."
    )


def is_full_disk(error: BaseException | None) -> bool:
  """Whether a full disk is behind an error; it has many faces."""
  while error is not None:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    if os.strerror(errno.ENOSPC) in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


@contextlib.contextmanager
def _full_disk(folder: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a full disk into a clear one."""
  try:
    yield
  except Exception as error:
    if not is_full_disk(error):
      raise
    raise CheckpointError(
      f"the disk of {folder} is full; this checkpoint was not written, earlier "
      "ones are whole. Free some space and start the same command again."
    ) from error
