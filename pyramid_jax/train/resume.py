"""What may change between a run and what goes on from its checkpoint."""

import hashlib
import json
import operator
import pathlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pyramid_jax.checkpoint import CheckpointError, Checkpoints
from pyramid_jax.config import Config, ConfigError, differences

# Groups of settings that decide what a run's weights are and what it reads; a
# transformer's rows are compared by `require_same_rows`.
FIXED = {
  "dit": ("kind", "seed", "flow", "model", "optimizer.method"),
  "vae": ("kind", "seed", "vae", "vae_loss", "videos", "optimizer.method"),
}
# What may change among them.
FREE = tuple(
  f"config.{name}"
  for name in ("videos.workers", "model.dtype",
               "model.attention",
               "model.remat", "vae.dtype", "vae.remat", "vae_loss.lpips")
)  # fmt: skip


def _part(config: Config, name: str) -> Any:
  """A setting or a group of them."""
  return operator.attrgetter(name)(config)


def require_same(
  old: Config,
  new: Config,
  folder: pathlib.Path,
  groups: Sequence[str] = (),
):
  """Refuses to continue a checkpoint as a run of another model or data.

  The optimizer's settings may change (not its method, whose state is another),
  lengths, mesh and reports, what is computed in, and the number of loaders.
  `groups` of settings are compared; by default all that decide a run.

  Raises:
    CheckpointError: names every setting that differs.
  """
  lines = [
    line
    for group in groups or FIXED.get(old.kind, ("kind",))
    for line in differences(
      _part(old, group), _part(new, group), f"config.{group}"
    )
    if not line.startswith(FREE)
  ]
  if lines:
    raise CheckpointError(
      f"{folder} was trained with other settings (its -> now): "
      f"{'; '.join(lines)}. Use the same ones, or another --workdir."
    )


def require_same_rows(
  old: Any,
  new: Any,
  folder: pathlib.Path,
  step: int,
  allowed: bool = False,
) -> list[str]:
  """Refuses to continue a checkpoint with other data or another order.

  Args:
    old: "plan" of the checkpoint's meta, see `data.curriculum.Curriculum`.
    new: that of the run.
    folder: of the checkpoints.
    step: of the checkpoint.
    allowed: whether the run may go on all the same.

  Returns:
    What changed, if that is allowed.

  Raises:
    CheckpointError: names all that changed, and what allowing it would do.
  """
  if old == new:
    return []
  if not isinstance(old, Mapping):
    lines = ["the plan of the rows is that of an earlier version"]
  else:
    lines = [
      f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}"
      for name in [*new, *(old.keys() - new.keys())]
      if old.get(name) != new.get(name)
    ]
  if not allowed:
    raise CheckpointError(
      f"{folder} was trained on other rows (its -> now): {'; '.join(lines)}. "
      "Use the same data and settings, or another --workdir; or go on with "
      "--config.train.new_data=True: the weights stay, and the rows go on with "
      f"those of step {step} in the new order, so that some clips come again "
      "sooner and others later than in one epoch."
    )
  return lines


ENCODERS = ("vae_fingerprint", "text_fingerprint", "statistics")


def other_encoders(
  old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> list[str]:
  """How the makers of two "latents" of checkpoints' metas differ, where known.

  Weights that learned the latents of one VAE mean nothing on those of another.
  """
  pairs = {k: ((old or {}).get(k), (new or {}).get(k)) for k in ENCODERS}
  return [
    f"{name}: {was} -> {now}"
    for name, (was, now) in pairs.items()
    if was and now and was != now
  ]


def require_same_encoders(
  old: Mapping[str, Any] | None,
  new: Mapping[str, Any] | None,
  folder: pathlib.Path,
):
  """Refuses to continue a checkpoint on latents of another VAE or text encoder.

  Raises:
    CheckpointError: names what differs.
  """
  if lines := other_encoders(old, new):
    raise CheckpointError(
      f"{folder} was trained on latents of other encoders (its -> now): "
      f"{'; '.join(lines)}. Encode the new data with the same ones, or begin "
      "another --workdir, from these weights by --config.train.init."
    )


SEEN_WITHIN = 10  # seconds in which a shared disk shows a new file everywhere


class LaggingDiskError(CheckpointError):
  """A shared disk does not show all processes the same; later it may."""

  exit_code = 3


def require_same_everywhere(
  checkpoints: Checkpoints, plan: Mapping[str, Any] | None
):
  """Refuses to train where processes would begin with other weights or rows.

  Raises:
    ConfigError, CheckpointError: on all of them, with what each sees; a
      LaggingDiskError where waiting may help.
  """
  if jax.process_count() > 1:
    _require_same_folder(checkpoints.folder)
    _require_same_step(checkpoints)
    _require_same_plan(plan)


def _require_same_step(checkpoints: Checkpoints):
  """Waits until all processes see the same newest checkpoint."""
  end = time.monotonic() + SEEN_WITHIN
  while True:
    latest, late = checkpoints.latest, time.monotonic() > end
    mine = np.array([-1 if latest is None else latest, late], np.int32)
    steps, late = np.transpose(multihost_utils.process_allgather(mine))
    if len(set(steps.tolist())) == 1:
      return
    if late.any():  # so that all of them end here
      break
    time.sleep(0.2)
    checkpoints.look_again()
  seen = ", ".join(
    f"process {i} {'none' if step < 0 else f'step {step}'}"
    for i, step in enumerate(steps)
  )
  raise LaggingDiskError(
    f"the newest checkpoint in {checkpoints.folder} is for {seen}, after "
    f"{SEEN_WITHIN} s too. All must see the same files: wait until the disk "
    "shows them to all, then start the same command again."
  )


def _require_same_plan(plan: Mapping[str, Any] | None):
  """Refuses processes that would train on other rows."""
  digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).digest()
  every = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
  other = np.flatnonzero((every != every[0]).any(1))
  if len(other):
    seen = "; ".join(f"{k}: {v}" for k, v in (plan or {}).items())
    raise ConfigError(
      f"of {len(every)} processes {', '.join(map(str, other))} see other data "
      f"than process 0; process {jax.process_index()} sees {seen}. Let all of "
      "them read the same files, then start the same command again."
    )


def _require_same_folder(folder: pathlib.Path):
  """Refuses a folder of the same name on a disk of each host's own."""
  number = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31)))
  probe = folder.parent / f".seen_by_all_{int(number)}"
  if jax.process_index() == 0:
    probe.touch()
  multihost_utils.sync_global_devices("the probe of the workdir is there")
  end = time.monotonic() + SEEN_WITHIN
  while not (seen := probe.exists()) and time.monotonic() < end:
    time.sleep(0.2)
  every = multihost_utils.process_allgather(np.int32(seen))
  if jax.process_index() == 0:
    probe.unlink()
  if not every.all():
    blind = ", ".join(map(str, np.flatnonzero(every == 0)))
    raise CheckpointError(
      f"{folder} of process 0 is not that of {blind}; --workdir must be on a "
      "disk that all processes share."
    )
