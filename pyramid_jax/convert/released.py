"""Snapshots of released models to folders of ours, and back.

Both have the same layout: `causal_video_vae`, `diffusion_transformer_*`,
`text_encoder*` beside `tokenizer*`. A component of ours holds
`weights.safetensors` (convert/component.py) and, where it can be trained or
run, `trained.json`; so it is the workdir that other commands ask for.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from pyramid_jax import checkpoint, sharding, tensors
from pyramid_jax.config import (
  PRESETS,
  Config,
  GenerateConfig,
  MeshConfig,
  TextConfig,
)
from pyramid_jax.convert import component, names, snapshot
from pyramid_jax.convert.models import (
  CAUSAL_VAE,
  CLIP_ENCODER,
  DIT,
  T5_ENCODER,
  Model,
)
from pyramid_jax.convert.snapshot import SnapshotError
from pyramid_jax.data.latents import Statistics
from pyramid_jax.models.pure import Params

Path = str | os.PathLike

VAE, TRANSFORMER = "causal_video_vae", "diffusion_transformer"

# Shift and scale of the released VAEs' latents, by the kind of text encoders
# that comes with them; later frames alike.
STATISTICS = {
  "sd3": Statistics(0.1490, 1 / 1.8415, -0.2343, 1 / 3.0986),
  "flux": Statistics(-0.04, 1 / 1.8726, -0.2343, 1 / 3.0986),
}
SUFFIX = ", hyper quality, Ultra HD, 8K"
NEGATIVE = (
  "cartoon style, worst quality, low quality, blurry, absolute black, absolute "
  "white, low res, extra limbs, extra digits, misplaced objects, mutated "
  "anatomy, monochrome, horror"
)


@dataclasses.dataclass(frozen=True)
class Component:
  """A folder of a snapshot that holds one model."""

  folder: pathlib.Path
  name: str  # of the folder in a snapshot
  what: str  # mmdit, miniflux, vae, t5, clip_l, clip_g
  model: Model
  values: Mapping[str, Any]  # config.json

  @property
  def tokenizer(self) -> pathlib.Path | None:
    """The folder of a text encoder's tokenizer."""
    if not self.name.startswith("text_encoder"):
      return None
    number = self.name.removeprefix("text_encoder")
    return self.folder.parent / f"tokenizer{number}"


def components(snapshot_dir: Path, what: str = "all") -> list[Component]:
  """The models of a kind that a snapshot has, or all of them.

  The folder may also be that of one component.

  Raises:
    SnapshotError: it has none, or of all models that belong together one is
      missing; says where it looked and what is there.
  """
  root = pathlib.Path(snapshot_dir)
  single = (root / "config.json").is_file()
  folders = [root] if single else sorted(p for p in root.glob("*/"))
  found = [c for folder in folders if (c := _component(folder))]
  chosen = [c for c in found if what in (c.what, "all")]
  if not chosen:
    there = ", ".join(f"{c.name} ({c.what})" for c in found) or "none"
    raise SnapshotError(
      f"{root} has no {'model' if what == 'all' else what}: looked for folders "
      f"{VAE}, {TRANSFORMER}_*, text_encoder*, each with its config.json; "
      f"found {there}."
    )
  if what == "all" and not single:
    _require_whole(root, {c.what for c in found})
  return chosen


def _require_whole(root: pathlib.Path, there: set[str]):
  """Refuses a snapshot in which a model is missing that the others need."""
  needed = {
    "vae": f"the VAE ({VAE})",
    "t5": "T5 (text_encoder_3, of miniFLUX text_encoder_2)",
    "clip_l": "CLIP-L (text_encoder)",
  }
  if "mmdit" in there:
    needed["clip_g"] = "CLIP-G (text_encoder_2)"
  missing = [name for what, name in needed.items() if what not in there]
  if not there & {"mmdit", "miniflux"}:
    missing.append(f"a transformer ({TRANSFORMER}_*)")
  if missing:
    raise SnapshotError(
      f"{root} lacks {', '.join(missing)}; fetch it, or name with --model what "
      "is to be converted."
    )


def _component(folder: pathlib.Path) -> Component | None:
  name = folder.resolve().name
  if not (folder / "config.json").is_file():
    return None
  values = snapshot.read_json(folder / "config.json")
  if "encoder_block_out_channels" in values:
    return Component(folder, name, "vae", CAUSAL_VAE, values)
  if "joint_attention_dim" in values:
    kind = "miniflux" if "num_single_layers" in values else "mmdit"
    return Component(folder, name, kind, DIT, values)
  if values.get("model_type") == "t5":
    return Component(folder, name, "t5", T5_ENCODER, values)
  if values.get("model_type") in ("clip_text_model", "clip"):
    which = "clip_g" if name == "text_encoder_2" else "clip_l"
    return Component(folder, name, which, CLIP_ENCODER, values)
  return None


def convert(part: Component, out: Path, dtype: str = "bfloat16"):
  """Writes a released component as ours, `out`/name, whole or not at all.

  Needs the memory of its largest tensor. `dtype` is what the model computes in;
  the weights keep their own.

  Raises:
    SnapshotError: it is there already, or a file is missing.
    NameTableError: tensors that are missing, unknown or misshaped.
  """
  out = pathlib.Path(out)
  with names.named(part.folder):
    stored = snapshot.open_tensors(part.folder)
    config = _config(part, stored)
    stored = part.model.tensors(config, stored)

  def write(folder: pathlib.Path):
    with names.named(part.folder):
      component.write_weights(
        part.model, config, stored, folder / tensors.WEIGHTS
      )
    if part.tokenizer:
      snapshot.write_json(folder / "config.json", part.values)
    else:
      computing = dataclasses.replace(config, dtype=dtype)
      checkpoint.save_trained(folder, *_settings(part, computing))

  if part.tokenizer:
    _copy_tokenizer(part.tokenizer, out)
  snapshot.write_beside(out / part.name, write)


def load(
  part: Component, mesh: jax.sharding.Mesh, dtype: str | None = None
) -> tuple[Any, Params]:
  """Config and parameters of a released component, straight onto a mesh.

  Every device reads its own part of a tensor, nothing is written. `dtype` None
  keeps the stored ones.

  Raises:
    SnapshotError: a file is missing.
    NameTableError: tensors that are missing, unknown or misshaped.
  """
  config = _config(part, snapshot.open_tensors(part.folder))
  return config, component.load_params(
    part.model, config, part.folder, mesh, dtype
  )


def _config(part: Component, stored: Mapping[str, Any]) -> Any:
  """Our config; a CLIP may come without its projection."""
  config = part.model.read_config(part.values)
  if part.model is CLIP_ENCODER and "text_projection.weight" not in stored:
    config = dataclasses.replace(config, projection=0)
  return config


def _copy_tokenizer(folder: pathlib.Path, out: pathlib.Path):
  if not folder.is_dir():
    raise SnapshotError(
      f"{folder} is missing; its text encoder is of no use without it."
    )
  if not (out / folder.name).exists():
    copy = lambda to: shutil.copytree(folder, to, dirs_exist_ok=True)
    snapshot.write_beside(out / folder.name, copy)


def _settings(part: Component, config: Any) -> tuple[Config, dict[str, Any]]:
  """The settings under which a component was released, and its meta."""
  root = part.folder.resolve().parent
  # the SD3-type comes with three text encoders
  two = (root / "text_encoder_2").exists()
  flux = part.what == "miniflux" or (
    part.what == "vae" and two and not (root / "text_encoder_3").exists()
  )
  kind = "flux" if flux else "sd3"
  if part.what == "vae":
    statistics = dataclasses.asdict(STATISTICS[kind])
    return Config(kind="vae", vae=config), {"statistics": statistics}
  # a preset is part of the name of a transformer's folder
  size = next((s for s in PRESETS if s in part.name), "384p")
  generate = GenerateConfig(
    **PRESETS[size], prompt_suffix=SUFFIX, negative_prompt=NEGATIVE
  )
  text = TextConfig(path="..", kind=kind)
  latents = {
    "vae_path": f"../{VAE}",
    "text_path": text.path,
    "text_kind": kind,
    "text_max_tokens": text.max_tokens,
    "text_dtype": text.dtype,
    "vae_fingerprint": "",  # released weights name none
    "text_fingerprint": "",
  }
  return Config(model=config, text=text, generate=generate), {
    "latents": latents
  }


def ours(root: Path) -> list[pathlib.Path]:
  """The models of ours in a folder: a training run, converted components.

  Raises:
    SnapshotError: there are none.
  """
  root = pathlib.Path(root)
  if (root / "checkpoints").is_dir() or (root / tensors.WEIGHTS).is_file():
    return [root]
  found = [path.parent for path in sorted(root.glob(f"*/{tensors.WEIGHTS}"))]
  if not found:
    raise SnapshotError(
      f"{root} has neither checkpoints nor {tensors.WEIGHTS}; name the workdir "
      "of a pyramid-train or a folder that pyramid-convert wrote."
    )
  return found


def export(
  workdir: Path, out: Path, name: str = "", weights: str = "ema"
) -> pathlib.Path:
  """Writes a model of ours in the released layout; returns its folder.

  Args:
    workdir: of a training run, or of a component that `convert` wrote.
    out: of the new snapshot.
    name: of the folder; by default as it was, or what its kind is called.
    weights: "ema" or "params" of a training run.

  Raises:
    CheckpointError: there are no weights.
    SnapshotError: the folder is there already.
  """
  workdir, out = pathlib.Path(workdir), pathlib.Path(out)
  part = _component(workdir)  # a text encoder keeps its config.json
  if part is None:
    model, config, params, kind = _trained(workdir, weights)
    values, file = model.write_config(config), snapshot.NAMES[1]
  else:
    model, values, file = part.model, part.values, snapshot.NAMES[0]
    params = tensors.read_tree(workdir / tensors.WEIGHTS)
    config, kind = model.read_config(values), part.name
    if model is CLIP_ENCODER and "projection" not in params:
      config = dataclasses.replace(config, projection=0)
    _copy_tokenizer(part.tokenizer, out)
  made = component.torch_tensors(model, config, params)
  if not name:
    converted = (workdir / tensors.WEIGHTS).is_file()
    name = workdir.resolve().name if converted else kind
  snapshot.write_beside(
    out / name,
    lambda folder: snapshot.write_component(folder, values, made, file),
  )
  return out / name


def _trained(workdir: pathlib.Path, weights: str):
  """Model, config, parameters and the folder's name of a VAE or transformer."""
  config = checkpoint.read_meta(workdir)[0]
  if config.kind == "vae":
    model, part, name = CAUSAL_VAE, config.vae, VAE
  else:
    model, part, name = DIT, config.model, TRANSFORMER
  if (workdir / tensors.WEIGHTS).is_file():
    return model, part, tensors.read_tree(workdir / tensors.WEIGHTS), name
  mesh = sharding.make_mesh(MeshConfig())
  make = lambda _: model.make(part)
  trained = checkpoint.load_trained(workdir, config.kind, make, mesh, weights)
  return model, part, trained.params, name
