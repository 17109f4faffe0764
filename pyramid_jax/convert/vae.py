"""Causal VAE: the released code's config and tensor names, and ours."""

from collections.abc import Mapping
from typing import Any

from pyramid_jax.config import ConfigError, VAEConfig
from pyramid_jax.convert.names import CONV3D, LINEAR, SAME, Name

POINTWISE = "o i 1 1 1 -> i o"
# The released code keeps the pixels (frames) of a block innermost among the
# channels; channels-last arrays unfold without a shuffle if they are outermost.
SPACE_UP = "(o p q) i t h w -> t h w i (p q o)"
TIME_UP = "(o p) i t h w -> t h w i (p o)"


def config_from_torch(values: Mapping[str, Any]) -> VAEConfig:
  """The VAE of a released config.json, in float32.

  Raises:
    ConfigError: encoder and decoder of different sizes, or levels of different
      depths; ours have one setting for both.
  """
  for key in ("block_out_channels", "norm_num_groups"):
    one, other = values[f"encoder_{key}"], values[f"decoder_{key}"]
    if one != other:
      raise ConfigError(
        f"encoder_{key} is {one}, decoder_{key} {other}; they must be equal."
      )
  depths = {}
  for side in ("encoder", "decoder"):
    blocks = values[f"{side}_layers_per_block"]
    if len(set(blocks)) > 1:
      raise ConfigError(
        f"{side}_layers_per_block {blocks} differ; they must be equal."
      )
    depths[f"{side}_blocks"] = blocks[0]
  return VAEConfig(
    channels=tuple(values["encoder_block_out_channels"]),
    latent_channels=values["encoder_out_channels"],
    groups=values["encoder_norm_num_groups"],
    down_space=tuple(values["encoder_spatial_down_sample"]),
    down_time=tuple(values["encoder_temporal_down_sample"]),
    dtype="float32",
    **depths,
  )


def config_to_torch(config: VAEConfig) -> dict[str, Any]:
  """The config.json that the released code reads."""
  n, z = len(config.channels), config.latent_channels
  # halved on the way down from a level, doubled on the way up to it
  up = lambda down: [*down[-2::-1], False]
  return {
    "_class_name": "CausalVideoVAE",
    "encoder_in_channels": 3,
    "encoder_out_channels": z,
    "encoder_layers_per_block": [config.encoder_blocks] * n,
    "encoder_down_block_types": ["DownEncoderBlockCausal3D"] * n,
    "encoder_block_out_channels": list(config.channels),
    "encoder_spatial_down_sample": list(config.down_space),
    "encoder_temporal_down_sample": list(config.down_time),
    "encoder_block_dropout": [0.0] * n,
    "encoder_act_fn": "silu",
    "encoder_norm_num_groups": config.groups,
    "encoder_double_z": True,
    "decoder_in_channels": z,
    "decoder_out_channels": 3,
    "decoder_layers_per_block": [config.decoder_blocks] * n,
    "decoder_up_block_types": ["UpDecoderBlockCausal3D"] * n,
    "decoder_block_out_channels": list(config.channels),
    "decoder_spatial_up_sample": up(config.down_space),
    "decoder_temporal_up_sample": up(config.down_time),
    "decoder_block_dropout": [0.0] * n,
    "decoder_act_fn": "silu",
    "decoder_norm_num_groups": config.groups,
    "add_post_quant_conv": True,
    "interpolate": False,
    "downsample_scale": 2 ** sum(config.down_space),
  }


def names(config: VAEConfig) -> list[Name]:
  """The name table of a `models.vae.VAE`."""
  return [
    *_dense("moments", "quant_conv.conv", POINTWISE),
    *_dense("latents", "post_quant_conv.conv", POINTWISE),
    *_ends("encoder"),
    *_encoder_levels(config),
    *_ends("decoder"),
    *_decoder_levels(config),
  ]


def _encoder_levels(config: VAEConfig) -> list[Name]:
  table = []
  size_in = config.channels[0]
  for i, size in enumerate(config.channels):
    ours, torch = f"encoder.levels.{i}", f"encoder.down_blocks.{i}"
    table += _blocks(ours, torch, config.encoder_blocks, size_in != size)
    parts = ["downsamplers"] if config.down_space[i] else []
    parts += ["temporal_downsamplers"] if config.down_time[i] else []
    for j, part in enumerate(parts):
      table += _dense(
        f"{ours}.resample.{j}", f"{torch}.{part}.0.conv.conv", CONV3D
      )
    size_in = size
  return table


def _decoder_levels(config: VAEConfig) -> list[Name]:
  table = []
  size_in = config.channels[-1]
  for i, level in enumerate(reversed(range(len(config.channels)))):
    ours, torch = f"decoder.levels.{i}", f"decoder.up_blocks.{i}"
    size = config.channels[level]
    table += _blocks(ours, torch, config.decoder_blocks, size_in != size)
    parts = []
    if level > 0 and config.down_space[level - 1]:
      parts.append(("upsamplers", SPACE_UP, {"p": 2, "q": 2}))
    if level > 0 and config.down_time[level - 1]:
      parts.append(("temporal_upsamplers", TIME_UP, {"p": 2}))
    for j, (part, layout, lengths) in enumerate(parts):
      table += _dense(
        f"{ours}.resample.{j}.conv",
        f"{torch}.{part}.0.conv.conv",
        layout,
        lengths,
      )
    size_in = size
  return table


def _ends(side: str) -> list[Name]:
  """First and last convolution and the middle of encoder or decoder."""
  middle, mid_block = f"{side}.middle.blocks", f"{side}.mid_block"
  attention = f"{mid_block}.attentions.0"
  return [
    *_dense(f"{side}.conv_in", f"{side}.conv_in.conv", CONV3D),
    *_block(f"{middle}.0", f"{mid_block}.resnets.0"),
    *_norm(f"{middle}.1.norm", f"{attention}.group_norm"),
    *_dense(f"{middle}.1.query", f"{attention}.to_q", LINEAR),
    *_dense(f"{middle}.1.key", f"{attention}.to_k", LINEAR),
    *_dense(f"{middle}.1.value", f"{attention}.to_v", LINEAR),
    *_dense(f"{middle}.1.out", f"{attention}.to_out.0", LINEAR),
    *_block(f"{middle}.2", f"{mid_block}.resnets.1"),
    *_norm(f"{side}.out.norm", f"{side}.conv_norm_out"),
    *_dense(f"{side}.out.conv", f"{side}.conv_out.conv", CONV3D),
  ]


def _blocks(ours: str, torch: str, n: int, widens: bool) -> list[Name]:
  table = []
  for i in range(n):
    block, resnet = f"{ours}.blocks.{i}", f"{torch}.resnets.{i}"
    table += _block(block, resnet)
    if widens and i == 0:
      table += _dense(
        f"{block}.shortcut", f"{resnet}.conv_shortcut.conv", POINTWISE
      )
  return table


def _block(ours: str, torch: str) -> list[Name]:
  return [
    *_norm(f"{ours}.first.norm", f"{torch}.norm1"),
    *_dense(f"{ours}.first.conv", f"{torch}.conv1.conv", CONV3D),
    *_norm(f"{ours}.second.norm", f"{torch}.norm2"),
    *_dense(f"{ours}.second.conv", f"{torch}.conv2.conv", CONV3D),
  ]


def _norm(ours: str, torch: str) -> list[Name]:
  return [
    Name(f"{ours}.affine.scale", f"{torch}.weight"),
    Name(f"{ours}.affine.bias", f"{torch}.bias"),
  ]


def _dense(
  ours: str, torch: str, layout: str, lengths: dict[str, int] | None = None
) -> list[Name]:
  """A kernel and its bias; output channels that split do so in both."""
  lengths = lengths or {}
  bias = SAME
  if lengths:
    before, after = layout.split(" -> ")
    bias = f"{before.split(')')[0]}) -> ({after.split('(')[1]}"
  return [
    Name(f"{ours}.kernel", f"{torch}.weight", layout, lengths),
    Name(f"{ours}.bias", f"{torch}.bias", bias, lengths),
  ]
