"""Checkpoints of a run: written beside, renamed when whole, the last few kept.

A step's folder holds named trees of arrays (params, ema, opt, progress) and
meta: the config and what belongs to the weights, such as latent statistics.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from pyramid_jax import sharding, tensors
from pyramid_jax.config import Config, UserError, from_dict
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.tensors import WEIGHTS

TRAINED = "trained.json"  # config and meta of converted weights
MARK = "commit_success.txt"  # of orbax, in each part that is whole
# Bytes that each replica of an array writes at least, if they share the work.
# Parts of a small array cost more than they save: each is a program to compile.
SHARE = 2**20
# Seconds in which a save that does not hang changes what is free on the disk.
PATIENCE = 30
CHECKS = 20  # of these, after which it counts as hanging whatever changes


def _share_large_arrays_only():
  """Tells orbax of `SHARE`, for which it has but a registry of its own."""
  handlers, before = ocp.type_handlers, logging.get_verbosity()
  handler = handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARE)
  logging.set_verbosity(logging.ERROR)  # it warns that the handler is replaced
  handlers.register_type_handler(jax.Array, handler, override=True)
  logging.set_verbosity(before)


_share_large_arrays_only()


class CheckpointError(UserError):
  """A checkpoint that is missing, does not fit or cannot be written."""


class Checkpoints:
  """The checkpoints of a workdir; several processes call all of it together.

  With `writing` what a killed run left half written is removed.
  """

  def __init__(
    self, workdir: str | pathlib.Path, keep: int = 3, writing: bool = False
  ):
    self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
    self.manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=writing,
      ),
    )

  @property
  def latest(self) -> int | None:
    """The newest step that was saved whole."""
    return self.manager.latest_step()

  def look_again(self):
    """Finds the steps that the disk shows by now."""
    self.manager.reload()

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
    if not self._has_room(items):
      self._let_finish()  # what it drops then, or has in the way, makes room
      self._require_room(items)
    saved = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    meta = {"config": dataclasses.asdict(config), **meta}
    with _full_disk(self.folder):
      self.manager.save(
        step, args=ocp.args.Composite(**saved, meta=ocp.args.JsonSave(meta))
      )

  def _has_room(self, items: Mapping[str, Any]) -> bool:
    """Whether the disk has room for a save, as the first process finds it.

    So either all processes save or none does.
    """
    usage = shutil.disk_usage(self.folder)
    enough = usage.free >= _bytes_of(items) or not usage.total
    return bool(multihost_utils.broadcast_one_to_all(np.int32(enough)))

  def _let_finish(self):
    """Waits for the save before as long as it goes on; raises as `save`.

    Where the disk becomes full under it, its processes wait for each other.
    """
    failed: list[BaseException] = []

    def wait():
      try:
        self.manager.wait_until_finished()
      except BaseException as error:
        failed.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    before = None
    for _ in range(CHECKS):
      waiting.join(PATIENCE)
      if not waiting.is_alive():
        break
      free = shutil.disk_usage(self.folder).free
      if free == before:
        break
      before = free
    with _full_disk(self.folder):
      if failed:
        raise failed[0]

  def _require_room(self, items: Mapping[str, Any]):
    """Refuses a save for which there is no room, before anything is written."""
    if not self._has_room(items):
      free = shutil.disk_usage(self.folder).free
      raise CheckpointError(
        f"the disk of {self.folder} is full: a checkpoint needs "
        f"{_bytes_of(items) / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are "
        "free. Earlier checkpoints are whole. Free some space and start the "
        "same command again."
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
    """The newest trees; `targets` has their shapes, dtypes and shardings.

    Raises:
      CheckpointError: a part of them is not there.
    """
    self._require_whole(targets)
    items = {k: ocp.args.StandardRestore(v) for k, v in targets.items()}
    restored = self.manager.restore(
      self.latest, args=ocp.args.Composite(**items)
    )
    return {k: restored[k] for k in targets}

  def meta(self) -> tuple[Config, dict[str, Any]]:
    """The newest config, and what else was saved with it; as `restore`."""
    self._require_whole(["meta"])
    meta = self.manager.restore(
      self.latest, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    )["meta"]
    return from_dict(Config, meta.pop("config")), meta

  def _require_whole(self, items: Iterable[str]):
    """Refuses a newest step that a copy, or another disk, has left in part.

    To orbax a step is whole when its folder has its name, which a disk whose
    renaming is not atomic may give too early.
    """
    step = self.folder / str(self.latest)
    parts = {name: step / name for name in items}
    marked = any(step.glob(f"*/{MARK}"))  # not by earlier versions of orbax
    lacking = [
      name if not path.is_dir() else f"{name}/{MARK}"
      for name, path in parts.items()
      if not path.is_dir() or (marked and not (path / MARK).is_file())
    ]
    if lacking:
      raise CheckpointError(
        f"{step} is not whole: it lacks {', '.join(lacking)}. Delete that "
        "folder; then the checkpoint before it counts."
      )


def _bytes_of(items: Mapping[str, Any]) -> int:
  return sum(x.nbytes for x in jax.tree.leaves(items))


@dataclasses.dataclass(frozen=True)
class Trained:
  """Weights to use, and what was saved with them."""

  config: Config
  params: Params
  meta: dict[str, Any]


def load_trained(
  workdir: str | pathlib.Path,
  kind: str,
  make: Callable[[Config], Pure],
  mesh: jax.sharding.Mesh,
  weights: str = "ema",
  require: Callable[[dict[str, Any]], None] = lambda meta: None,
  used: bool = False,
) -> Trained:
  """Reads a model from a training run, or from a folder of converted weights.

  Converted weights keep the dtypes in which they are stored.

  Args:
    workdir: of the run, or the folder.
    kind: "dit" or "vae".
    make: the model of a config.
    mesh: where the parameters go, straight from disk.
    weights: "ema" or "params" of a training run.
    require: refuses what the meta says, or "step" and "steps" of a run, before
      weights are read.
    used: keep no more of a weight than the model uses, see `Pure.used`; what
      it gives is the same to the bit.

  Raises:
    CheckpointError: there is none, or it is of the other kind of model.
  """
  workdir = pathlib.Path(workdir)
  if (workdir / WEIGHTS).is_file():
    return _load_converted(workdir, kind, make, mesh, require, used)
  checkpoints, config, meta = open_trained(workdir, kind)
  with contextlib.closing(checkpoints):
    run = {"step": checkpoints.latest, "steps": config.train.steps}
    require({**meta, **run})
    model = make(config)
    shapes = model.used if used else model.shapes
    places = sharding.tree_shardings(mesh, shapes, model.axes)
    target = {weights: placed(shapes, places)}
    return Trained(config, checkpoints.restore(target)[weights], meta)


def _load_converted(workdir, kind, make, mesh, require, used) -> Trained:
  config, meta = read_meta(workdir, kind)
  require(meta)
  model, tree = make(config), tensors.read_tree(workdir / WEIGHTS)
  found, wanted = tensors.flat(tree), tensors.flat(model.shapes)
  wrong = [
    f"{name} {x.shape if (x := found.get(name)) else 'missing'}"
    for name in sorted(wanted.keys() | found.keys())
    if name not in wanted
    or name not in found
    or found[name].shape != wanted[name].shape
  ]
  if wrong:
    raise CheckpointError(
      f"{workdir / WEIGHTS} does not fit the config in {TRAINED}: "
      f"{', '.join(wrong)}. Convert it again."
    )
  places = sharding.tree_shardings(mesh, model.shapes, model.axes)
  most = model.used if used else None
  return Trained(config, tensors.place_tree(tree, places, most), meta)


def save_trained(folder: pathlib.Path, config: Config, meta: Mapping[str, Any]):
  """Writes what belongs to a folder's converted weights."""
  text = json.dumps({"config": dataclasses.asdict(config), **meta}, indent=2)
  (folder / TRAINED).write_text(text + "\n")


def read_meta(
  workdir: str | pathlib.Path, kind: str = ""
) -> tuple[Config, dict[str, Any]]:
  """Config and meta of a training run or of converted weights.

  Raises:
    CheckpointError: it is neither, or of another kind of model.
  """
  path = pathlib.Path(workdir) / TRAINED
  if path.is_file():
    try:
      meta = json.loads(path.read_text())
      config = from_dict(Config, meta.pop("config"))
    except (json.JSONDecodeError, KeyError) as error:
      raise CheckpointError(
        f"{path} is damaged ({error}); convert the weights again."
      ) from error
    _require_kind(path.parent, config, kind)
    return config, meta
  checkpoints, config, meta = open_trained(workdir, kind)
  checkpoints.close()
  return config, meta


def latest_step(workdir: str | pathlib.Path) -> int | None:
  """The step of a run's last checkpoint; None for converted weights."""
  if not (pathlib.Path(workdir) / "checkpoints").is_dir():
    return None
  with contextlib.closing(Checkpoints(workdir)) as checkpoints:
    return checkpoints.latest


def open_trained(
  workdir: str | pathlib.Path, kind: str = ""
) -> tuple[Checkpoints, Config, dict[str, Any]]:
  """A training run to read weights from: its checkpoints, config and meta.

  Raises:
    CheckpointError: there is none, or it is of the other kind of model.
  """
  workdir = pathlib.Path(workdir)
  there = (workdir / "checkpoints").is_dir()
  checkpoints = Checkpoints(workdir) if there else None
  if checkpoints is None or checkpoints.latest is None:
    raise CheckpointError(
      f"{workdir} has no checkpoint (none in {workdir / 'checkpoints'}). Give "
      "the --workdir of a finished pyramid-train, or a folder that "
      "pyramid-convert wrote."
    )
  config, meta = checkpoints.meta()
  try:
    _require_kind(workdir, config, kind)
  except CheckpointError:
    checkpoints.close()
    raise
  return checkpoints, config, meta


def _require_kind(workdir: pathlib.Path, config: Config, kind: str):
  if kind and config.kind != kind:
    raise CheckpointError(
      f"{workdir} holds a checkpoint of kind {config.kind!r}; this needs one "
      f"of kind {kind!r}."
    )


def placed(shapes: Any, shardings: Any) -> Any:
  """A target for `restore`: each array's shape and dtype in its place."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
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
