"""An MM-DiT that starts from Stable Diffusion 3 medium, as in the paper."""

import dataclasses
import os
import pathlib

import numpy as np

from pyramid_jax import checkpoint, tensors
from pyramid_jax.config import Config
from pyramid_jax.convert import component, dit, names, snapshot
from pyramid_jax.convert.models import DIT

NEW = (".norm_q.", ".norm_k.", ".norm_add_q.", ".norm_add_k.")


def convert(
  folder: str | os.PathLike, out: str | os.PathLike, dtype: str = "bfloat16"
) -> str:
  """Writes the weights of an SD3 transformer as a start for training.

  `config.train.init` takes the result. What SD3 medium has not starts as it
  would in a new model: the scales of the query and key norms at 1.

  Args:
    folder: of the transformer (diffusers layout), or of the whole model.
    out: folder of ours.
    dtype: what the model computes in.

  Returns:
    What was taken, what is new, and what differs from SD3, as text.

  Raises:
    SnapshotError: no transformer is there, or `out` is already.
    NameTableError: tensors that are missing, unknown or misshaped.
  """
  folder = pathlib.Path(folder)
  if (folder / "transformer" / "config.json").is_file():
    folder = folder / "transformer"
  values = snapshot.read_json(folder / "config.json")
  config = DIT.read_config(values)
  found = snapshot.open_tensors(folder)
  table = found.pop(dit.POSITIONS, None)
  model = DIT.make(config)
  wanted = names.torch_shapes(DIT.names(config), model.shapes)
  new = {
    name: np.ones(shape, np.float32)
    for name, shape in wanted.items()
    if name not in found and any(part in name for part in NEW)
  }
  lines = _report(config, found, new, table)
  stored = {**found, **new}

  def write(folder: pathlib.Path):
    component.write_weights(DIT, config, stored, folder / tensors.WEIGHTS)
    computing = dataclasses.replace(config, dtype=dtype)
    checkpoint.save_trained(folder, Config(model=computing), {})

  with names.named(folder):
    snapshot.write_beside(out, write)
  return "\n".join(lines)


def _report(config, found, new, table) -> list[str]:
  """What a person has to know of the weights' meaning here."""
  values = sum(int(np.prod(x.shape)) for x in found.values())
  lines = [f"taken: {len(found)} tensors, {values:,} values"]
  if new:
    values = sum(x.size for x in new.values())
    lines.append(
      f"new: {len(new)} scales of query and key norms, {values:,} values, at 1"
    )
  lines += [
    "new, without weights: temporal RoPE, causal attention over frames, "
    "positions of the history",
  ]
  if table is None:
    lines.append("differs: the file has no position table; ours is computed")
  else:
    ours, table = dit.buffers(config)[dit.POSITIONS], np.asarray(table)
    same = table.shape == ours.shape
    error = np.abs(table.astype(np.float32) - ours).max() if same else np.inf
    lines.append(
      f"same: the position table, within {error:.1e}"
      if error < 1e-2  # float16 or bfloat16 files round it
      else f"differs: its position table {table.shape}; ours {ours.shape} is "
      "computed"
    )
  if new:
    lines.append(
      "differs: queries and keys are normalised, which SD3 medium does not; "
      "outputs match only after training"
    )
  return lines
