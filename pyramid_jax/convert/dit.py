"""Diffusion transformers: the released code's configs and names, and ours."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyramid_jax.config import ConfigError, DiTConfig
from pyramid_jax.convert.names import LINEAR, PATCH, Name, NameTableError
from pyramid_jax.convert.names import stacked as layers
from pyramid_jax.models import positions

POSITIONS = "pos_embed.pos_embed"  # a buffer that we compute
# A linear layer's values as equal parts, see models/flux.py.
PARTS_OUT = "(f o) i -> i f o"
PARTS_IN = "o (p i) -> p i o"
PARTS = "(f o) -> f o"
ADDED = {"mmdit": "norm_add_{}", "flux": "norm_added_{}"}  # of the text stream


def config_from_torch(values: Mapping[str, Any]) -> DiTConfig:
  """The model of a released config.json (diffusers layout), in float32.

  Raises:
    ConfigError: a setting is missing.
  """
  try:
    shared = dict(
      layers=values["num_layers"],
      heads=values["num_attention_heads"],
      head_dim=values["attention_head_dim"],
      text_dim=values["joint_attention_dim"],
      pooled_dim=values["pooled_projection_dim"],
      causal=values.get("use_temporal_causal", True),
      dtype="float32",
    )
    if "num_single_layers" in values:
      # it always interpolates the places of the history, and patches of 2 x 2
      # are part of its channels
      return DiTConfig(
        kind="flux",
        single_layers=values["num_single_layers"],
        latent_channels=values["in_channels"] // 4,
        rotary_dims=tuple(values["axes_dims_rope"]),
        **shared,
      )
    interpolated = values.get("interp_condition_pos", True)
    return DiTConfig(
      latent_channels=values["in_channels"],
      patch=values["patch_size"],
      table_size=values["pos_embed_max_size"],
      table_base=values["sample_size"] // values["patch_size"],
      history_positions="interpolated" if interpolated else "plain",
      **shared,
    )
  except KeyError as error:
    raise ConfigError(
      f"config.json of the transformer has no {error}; it is not one of a "
      "pyramid flow MM-DiT or miniFLUX."
    ) from None


def config_to_torch(config: DiTConfig) -> dict[str, Any]:
  """The config.json that the released code reads."""
  shared = {
    "num_layers": config.layers,
    "num_attention_heads": config.heads,
    "attention_head_dim": config.head_dim,
    "joint_attention_dim": config.text_dim,
    "pooled_projection_dim": config.pooled_dim,
    "use_temporal_causal": config.causal,
    "interp_condition_pos": config.history_positions == "interpolated",
  }
  if config.kind == "flux":
    return {
      "_class_name": "PyramidFluxTransformer",
      "patch_size": 1,
      "in_channels": config.latent_channels * config.patch**2,
      "num_single_layers": config.single_layers,
      "axes_dims_rope": list(config.rotary_dims),
      **shared,
    }
  return {
    "_class_name": "PyramidDiffusionMMDiT",
    "sample_size": config.table_base * config.patch,
    "patch_size": config.patch,
    "in_channels": config.latent_channels,
    "pos_embed_max_size": config.table_size,
    "caption_projection_dim": config.heads * config.head_dim,
    "qk_norm": "rms_norm",
    "pos_embed_type": "sincos",
    "temp_pos_embed_type": "rope",
    "add_temp_pos_embed": True,
    **shared,
  }


def names(config: DiTConfig) -> list[Name]:
  """The name table of the transformer that the config describes."""
  flux, last = config.kind == "flux", config.layers - 1
  result = []
  for ours, torch in (
    ("timestep", "timestep_embedder"),
    ("pooled", "text_embedder"),
  ):
    torch = f"time_text_embed.{torch}"
    result += _dense(f"{ours}.up", f"{torch}.linear_1")
    result += _dense(f"{ours}.down", f"{torch}.linear_2")
  result += _dense("text_in", "context_embedder")
  result += _dense("modulation", "norm_out.linear")
  result += _dense("patch_out", "proj_out")
  block = list(_block(config, "blocks", "transformer_blocks.{}"))
  if flux:
    result += _dense("patch_in", "x_embedder")
    result += layers(block, range(config.layers))
    if config.single_layers:
      single = list(_single_block(config))
      result += layers(single, range(config.single_layers))
    return result
  sides = {"p": config.patch, "q": config.patch}
  result += [
    Name("patch_in.kernel", "pos_embed.proj.weight", PATCH, sides),
    Name("patch_in.bias", "pos_embed.proj.bias"),
  ]
  if last:
    result += layers(block, range(last))
  torch = f"transformer_blocks.{last}"
  return result + list(_block(config, "last_block", torch, closing=True))


def _dense(ours: str, torch: str) -> list[Name]:
  return [
    Name(f"{ours}.kernel", f"{torch}.weight", LINEAR),
    Name(f"{ours}.bias", f"{torch}.bias"),
  ]


def _block(
  config: DiTConfig, ours: str, torch: str, *, closing: bool = False
) -> Iterator[Name]:
  """Both streams of a block."""
  for stream, tag, qkv, norm, out in (
    ("latent", "", "to_{}", "norm_{}", "to_out.0"),
    ("text", "_context", "add_{}_proj", ADDED[config.kind], "to_add_out"),
  ):
    here = f"{ours}.{stream}"
    yield from _dense(f"{here}.modulation", f"{torch}.norm1{tag}.linear")
    yield from _qkv(f"{here}.qkv", f"{torch}.attn", qkv, norm)
    if stream == "text" and closing:
      continue
    yield from _dense(f"{here}.out", f"{torch}.attn.{out}")
    yield from _dense(f"{here}.mlp_up", f"{torch}.ff{tag}.net.0.proj")
    yield from _dense(f"{here}.mlp_down", f"{torch}.ff{tag}.net.2")


def _qkv(ours: str, torch: str, qkv: str, norm: str) -> Iterator[Name]:
  for name in ("query", "key", "value"):
    yield from _dense(f"{ours}.{name}", f"{torch}.{qkv.format(name[0])}")
  for name in ("query", "key"):
    yield Name(
      f"{ours}.{name}_norm.scale", f"{torch}.{norm.format(name[0])}.weight"
    )


def _single_block(config: DiTConfig) -> Iterator[Name]:
  ours, torch = "single_blocks", "single_transformer_blocks.{}"
  ratio = config.mlp_ratio
  yield from _dense(f"{ours}.modulation", f"{torch}.norm.linear")
  yield from _qkv(f"{ours}.qkv", f"{torch}.attn", "to_{}", "norm_{}")
  up, out = f"{torch}.proj_mlp", f"{torch}.proj_out"
  yield Name(f"{ours}.mlp_up.kernel", f"{up}.weight", PARTS_OUT, {"f": ratio})
  yield Name(f"{ours}.mlp_up.bias", f"{up}.bias", PARTS, {"f": ratio})
  yield Name(f"{ours}.out.kernel", f"{out}.weight", PARTS_IN, {"p": 1 + ratio})
  yield Name(f"{ours}.out.bias", f"{out}.bias")


def buffers(config: DiTConfig) -> dict[str, np.ndarray]:
  """What a state dict holds besides parameters: the MM-DiT's position table.

  [1, size^2, D] float32, a persistent buffer of the released code.
  """
  if config.kind == "flux":
    return {}
  size, D = config.table_size, config.heads * config.head_dim
  axis = positions.sincos_table(size, D // 2, config.table_base)
  x = np.broadcast_to(axis[None], (size, size, D // 2))
  y = np.broadcast_to(axis[:, None], (size, size, D // 2))
  return {POSITIONS: np.concatenate([x, y], -1).reshape(1, size * size, D)}


def tensors(config: DiTConfig, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
  """A transformer's tensors without a position table, which has to be ours.

  A table in bfloat16 is compared after rounding ours.

  Raises:
    NameTableError: names the settings that decide the table.
  """
  for name, ours in buffers(config).items():
    if name not in tensors:
      continue
    found = np.asarray(tensors[name])
    error = np.inf
    if found.shape == ours.shape:
      rounded = ours.astype(found.dtype).astype(np.float32)
      error = np.abs(found.astype(np.float32) - rounded).max()
    if error > 1e-6:
      raise NameTableError(
        f"{name} {found.shape} is not the sin-cos table of table_size "
        f"{config.table_size}, table_base {config.table_base} {ours.shape}; "
        "compare pos_embed_max_size and sample_size with the checkpoint's."
      )
  return {t: x for t, x in tensors.items() if t != POSITIONS}
