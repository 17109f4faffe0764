"""MM-DiT: the released code's config and tensor names, and ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyramid_jax.config import MMDiTConfig
from pyramid_jax.convert import names as table
from pyramid_jax.convert.names import LINEAR, PATCH, Name
from pyramid_jax.models import positions
from pyramid_jax.models.pure import Params

POSITIONS = "pos_embed.pos_embed"  # a buffer that we compute


def config_from_torch(values: Mapping[str, Any]) -> MMDiTConfig:
  """The model of a released config.json (diffusers layout), in float32."""
  return MMDiTConfig(
    layers=values["num_layers"],
    heads=values["num_attention_heads"],
    head_dim=values["attention_head_dim"],
    latent_channels=values["in_channels"],
    patch=values["patch_size"],
    text_dim=values["joint_attention_dim"],
    pooled_dim=values["pooled_projection_dim"],
    table_size=values["pos_embed_max_size"],
    table_base=values["sample_size"] // values["patch_size"],
    history_positions=(
      "interpolated" if values["interp_condition_pos"] else "plain"
    ),
    causal=values["use_temporal_causal"],
    dtype="float32",
  )


def _dense(ours: str, torch: str) -> list[Name]:
  return [
    Name(f"{ours}.kernel", f"{torch}.weight", LINEAR),
    Name(f"{ours}.bias", f"{torch}.bias"),
  ]


def _block(ours: str, torch: str, *, closing: bool) -> list[Name]:
  result = []
  for stream, tag, qkv, norm, out in (
    ("latent", "", ("to_q", "to_k", "to_v"), "norm_{}", "to_out.0"),
    (
      "text",
      "_context",
      ("add_q_proj", "add_k_proj", "add_v_proj"),
      "norm_add_{}",
      "to_add_out",
    ),
  ):
    here = f"{ours}.{stream}"
    result += _dense(f"{here}.modulation", f"{torch}.norm1{tag}.linear")
    for ours_name, torch_name in zip(
      ("query", "key", "value"), qkv, strict=True
    ):
      result += _dense(f"{here}.{ours_name}", f"{torch}.attn.{torch_name}")
    for ours_name, letter in (("query", "q"), ("key", "k")):
      result.append(
        Name(
          f"{here}.{ours_name}_norm.scale",
          f"{torch}.attn.{norm.format(letter)}.weight",
        )
      )
    if stream == "text" and closing:
      continue
    result += _dense(f"{here}.out", f"{torch}.attn.{out}")
    result += _dense(f"{here}.mlp_up", f"{torch}.ff{tag}.net.0.proj")
    result += _dense(f"{here}.mlp_down", f"{torch}.ff{tag}.net.2")
  return result


def names(config: MMDiTConfig) -> list[Name]:
  """The name table of an MM-DiT."""
  sides = {"p": config.patch, "q": config.patch}
  result = [
    Name("patch_in.kernel", "pos_embed.proj.weight", PATCH, sides),
    Name("patch_in.bias", "pos_embed.proj.bias"),
  ]
  for ours, torch in (
    ("timestep", "timestep_embedder"),
    ("pooled", "text_embedder"),
  ):
    torch = f"time_text_embed.{torch}"
    result += _dense(f"{ours}.up", f"{torch}.linear_1")
    result += _dense(f"{ours}.down", f"{torch}.linear_2")
  result += _dense("text_in", "context_embedder")
  if config.layers > 1:
    layer = _block("blocks", "transformer_blocks.{}", closing=False)
    result += table.stacked(layer, range(config.layers - 1))
  last = f"transformer_blocks.{config.layers - 1}"
  result += _block("last_block", last, closing=True)
  result += _dense("modulation", "norm_out.linear")
  result += _dense("patch_out", "proj_out")
  return result


def position_buffer(config: MMDiTConfig) -> np.ndarray:
  """The released persistent buffer of positions, [1, size^2, D] float32."""
  size, D = config.table_size, config.heads * config.head_dim
  axis = positions.sincos_table(size, D // 2, config.table_base)
  x = np.broadcast_to(axis[None], (size, size, D // 2))
  y = np.broadcast_to(axis[:, None], (size, size, D // 2))
  return np.concatenate([x, y], -1).reshape(1, size * size, D)


def from_torch(
  config: MMDiTConfig, tensors: Mapping[str, np.ndarray], shapes: Params
) -> Params:
  """Our parameters from a torch state dict.

  Raises:
    NameTableError: tensors that are missing, unknown or misshaped, or a
      position buffer that is not the sin-cos table we compute.
  """
  if POSITIONS in tensors:
    found, ours = np.asarray(tensors[POSITIONS]), position_buffer(config)
    if found.shape != ours.shape or np.abs(found - ours).max() > 1e-6:
      raise table.NameTableError(
        f"{POSITIONS} {found.shape} is not the sin-cos table of table_size "
        f"{config.table_size}, table_base {config.table_base} {ours.shape}; "
        "compare pos_embed_max_size and sample_size with the checkpoint's."
      )
  return table.to_ours(names(config), tensors, shapes, ignore=[POSITIONS])


def to_torch(config: MMDiTConfig, params: Params) -> dict[str, np.ndarray]:
  """The torch state dict of our parameters, position buffer included."""
  tensors = table.to_torch(names(config), params)
  return {POSITIONS: position_buffer(config), **tensors}
