"""What may change between a run and what goes on from its checkpoint."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import Config, differences

# Groups of settings that decide what a run's weights are and what it reads; a
# transformer's rows are compared by `require_same_rows`.
FIXED = {
  "dit": ("kind", "seed", "flow", "model"),
  "vae": ("kind", "seed", "vae", "vae_loss", "videos"),
}
# What may change among them.
FREE = tuple(
  f"config.{name}"
  for name in ("videos.workers", "model.dtype",
               "model.attention",
               "model.remat", "vae.dtype", "vae.remat", "vae_loss.lpips")
)  # fmt: skip


def require_same(
  old: Config,
  new: Config,
  folder: pathlib.Path,
  groups: Sequence[str] = (),
):
  """Refuses to continue a checkpoint as a run of another model or data.

  Optimizer, lengths, mesh and reports may change, what is computed in, and the
  number of loaders. `groups` of settings are compared; by default all that
  decide a run.

  Raises:
    CheckpointError: names every setting that differs.
  """
  lines = [
    line
    for group in groups or FIXED.get(old.kind, ("kind",))
    for line in differences(
      getattr(old, group), getattr(new, group), f"config.{group}"
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
