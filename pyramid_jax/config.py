"""Every setting of the system, as frozen dataclasses.

A file in `configs/` returns an `ml_collections.ConfigDict`; `from_dict` turns
it into a `Config` and refuses what it does not know. Functions take the part
of the config that they need, never the whole.
"""

import dataclasses
import difflib
import json
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
  """A setting that cannot be used; the message names it and the remedy."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; -1 takes what the others leave."""

  data: int = 1
  fsdp: int = -1
  tensor: int = 1
  sequence: int = 1


@dataclasses.dataclass(frozen=True)
class FlowConfig:
  """The pyramid: stages in space, units and history in time (paper Sec. 3)."""

  stages: int = 3
  stage_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
  shift: float = 1.0
  gamma: float = 1 / 3  # the released code's positive value; paper: -gamma
  frames_per_unit: int = 1  # latent frames
  history: str = "pyramid"  # or "none": full-sequence training
  max_corruption: float = 1 / 3  # history noise is drawn from [0, this]
  upsample: str = "nearest"  # or "bilinear": Up of the stage jump


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
  """SD3-type multimodal diffusion transformer; the default is the 2 B model."""

  layers: int = 24
  heads: int = 24
  head_dim: int = 64
  mlp_ratio: int = 4
  latent_channels: int = 16
  patch: int = 2
  text_dim: int = 4096
  pooled_dim: int = 2048
  table_size: int = 192  # patches a side that the position table covers
  table_base: int = 64  # patches a side at which positions are 0, 1, 2, ...
  history_positions: str = "interpolated"  # or "plain"
  causal: bool = True  # or every frame sees every frame (ablation)
  dtype: str = "bfloat16"  # of the matmuls; parameters stay float32
  remat: str = "layer"  # "none", "attention" (keep its result) or "layer"


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Causal 3D VAE, 8 x 8 x 8; the default is the released one."""

  channels: tuple[int, ...] = (128, 256, 512, 512)
  encoder_blocks: int = 2  # residual blocks a level
  decoder_blocks: int = 3
  latent_channels: int = 16
  groups: int = 32
  down_space: tuple[bool, ...] = (True, True, True, False)
  down_time: tuple[bool, ...] = (True, True, True, False)
  dtype: str = "bfloat16"
  remat: bool = False


@dataclasses.dataclass(frozen=True)
class T5Config:
  """T5 encoder; the default is T5 v1.1 XXL."""

  vocabulary: int = 32128
  width: int = 4096
  head_dim: int = 64
  hidden: int = 10240
  layers: int = 24
  heads: int = 64
  buckets: int = 32
  max_distance: int = 128
  epsilon: float = 1e-6
  dtype: str = "bfloat16"


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
  """CLIP text encoder; the default is CLIP-L."""

  vocabulary: int = 49408
  width: int = 768
  hidden: int = 3072
  projection: int = 768
  layers: int = 12
  heads: int = 12
  positions: int = 77
  activation: str = "quick_gelu"  # "gelu" in CLIP-G
  epsilon: float = 1e-5
  end_token: int = 49407  # the pooled vector is read at its first occurrence
  dtype: str = "bfloat16"


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Where the text encoders lie and how their outputs are combined."""

  path: str = ""  # folder in the layout of a Hugging Face snapshot
  kind: str = "sd3"  # T5 + [CLIP-L, CLIP-G]; "flux": T5 + CLIP-L unprojected
  max_tokens: int = 128
  dtype: str = "bfloat16"  # of weights and features


@dataclasses.dataclass(frozen=True)
class Source:
  """One stored dataset of a mixture and the share of samples drawn from it."""

  path: str = ""
  weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class LatentDataConfig:
  """Packed rows from stored latents."""

  sources: tuple[Source, ...] = ()
  rows: int = 8  # a step, over all devices
  latent_tokens: int = 16384  # L, a row
  text_tokens: int = 2048  # M, a row
  segments: int = 64  # S, a row
  window: int = 4096  # samples planned together
  drop_prompt: float = 0.1
  stage_weights: tuple[float, ...] = ()  # empty: uniform
  segments_per_clip: int = 1
  max_units: int = 0  # longest clip used, in units; 0: all of it
  workers: int = 0  # loader processes; 0: threads in this process


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of VAE training on clips of one shape."""

  steps: int = 1000
  batch: int = 8
  frames: int = 1  # 8 n + 1
  height: int = 256
  width: int = 256


@dataclasses.dataclass(frozen=True)
class VideoDataConfig:
  """Clips of pixels for VAE training, from a folder, manifest or builder."""

  path: str = ""
  phases: tuple[Phase, ...] = (Phase(),)
  fps: float = 24.0
  workers: int = 0


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
  """How files become stored latents."""

  fps: float = 24.0
  # (height, width) a file may be cropped to; the nearest aspect ratio is taken
  sizes: tuple[tuple[int, int], ...] = ((384, 640),)
  max_frames: int = 121  # 8 n + 1
  min_frames: int = 1
  batch: int = 8  # clips encoded together, over all devices
  window: int = 16  # frames a chunk of the VAE


@dataclasses.dataclass(frozen=True)
class VAELossConfig:
  """Weights of the VAE's loss."""

  pixel: float = 1.0
  kl: float = 1e-6


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW; the schedule is a warm-up, then constant or a cosine to zero."""

  learning_rate: float = 1e-4
  warmup: int = 1000
  schedule: str = "constant"  # or "cosine"
  beta1: float = 0.9
  beta2: float = 0.95
  epsilon: float = 1e-6
  weight_decay: float = 1e-4
  clip: float = 1.0  # global gradient norm
  ema: float = 0.9999  # decay a step


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length, reports, checkpoints and limits of a training run."""

  steps: int = 50_000
  microbatches: int = 1  # a step's rows, processed in this many parts
  log_every: int = 50
  save_every: int = 1000
  keep: int = 3
  max_nonfinite: int = 0  # steps with a non-finite loss that may be skipped
  eval_clips: int = 16  # held-out clips of the VAE's PSNR


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """Defaults of the sampler."""

  height: int = 384
  width: int = 640
  frames: int = 121  # video frames, 8 n + 1
  steps: tuple[int, ...] = (20, 20, 20)  # per stage, first frame
  video_steps: tuple[int, ...] = (10, 10, 10)  # per stage, later units
  guidance: float = 7.0
  video_guidance: float = 5.0
  guidance_decay: float = 0.0  # subtracted per unit; 0: constant
  min_guidance: float = 2.0
  prompt_suffix: str = ""
  negative_prompt: str = ""
  fps: float = 24.0
  decode_window: int = 2  # latent frames a chunk of the VAE


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run. `kind` names what is trained: "vae" or "dit"."""

  kind: str = "dit"
  seed: int = 0
  mesh: MeshConfig = MeshConfig()
  flow: FlowConfig = FlowConfig()
  model: MMDiTConfig = MMDiTConfig()
  vae: VAEConfig = VAEConfig()
  text: TextConfig = TextConfig()
  latents: LatentDataConfig = LatentDataConfig()
  videos: VideoDataConfig = VideoDataConfig()
  encode: EncodeConfig = EncodeConfig()
  vae_loss: VAELossConfig = VAELossConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  train: TrainConfig = TrainConfig()
  generate: GenerateConfig = GenerateConfig()


def from_dict(cls: type[T], values: Any, path: str = "config") -> T:
  """Builds the dataclass `cls` from nested mappings, strictly.

  Raises:
    ConfigError: an unknown key (the nearest known one is named) or a value of
      another type than the field's.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}
  hints = typing.get_type_hints(cls)
  for key in values:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, 1, 0.0)
      raise ConfigError(
        f"{path}.{key} is not a setting; did you mean {path}.{near[0]}? "
        f"Settings of {path}: {', '.join(fields)}."
      )
  return cls(
    **{
      key: _value(hints[key], value, f"{path}.{key}")
      for key, value in dict(values).items()
    }
  )


def _value(hint: Any, value: Any, path: str) -> Any:
  """Checks one value against its annotation and converts containers."""
  if dataclasses.is_dataclass(hint):
    if not hasattr(value, "keys"):
      raise ConfigError(f"{path} must be a group of settings, not {value!r}.")
    return from_dict(hint, value, path)
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f"{path} must be a list, not {value!r}.")
    args = typing.get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
      args = (args[0],) * len(value)
    elif len(args) != len(value):
      raise ConfigError(f"{path} must have {len(args)} values, not {value!r}.")
    return tuple(
      _value(a, v, f"{path}[{i}]")
      for i, (a, v) in enumerate(zip(args, value, strict=True))
    )
  if hint is float and type(value) is int:
    return float(value)
  if isinstance(hint, types.UnionType):
    raise TypeError(f"{path}: a setting has one type, not {hint}.")
  if type(value) is not hint:
    raise ConfigError(
      f"{path} must be {hint.__name__}, not {type(value).__name__} {value!r}."
    )
  return value


def settings(**values: Any) -> Any:
  """What a config file returns: the defaults with `values` in their place.

  Every setting is in it, so each can be changed on the command line.
  """
  # here, so that models import where only jax, flax, optax and einops are
  from ml_collections import ConfigDict

  return ConfigDict(dataclasses.asdict(from_dict(Config, values)))


def to_json(config: Any) -> str:
  """Writes a config so that `from_json` gives an equal one back."""
  return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(cls: type[T], text: str) -> T:
  """Reads what `to_json` wrote, as strictly as a config file."""
  return from_dict(cls, json.loads(text))


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
  """Names every setting in which two configs of one class differ."""
  if not dataclasses.is_dataclass(old):
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
  lines = []
  for field in dataclasses.fields(old):
    name = field.name
    lines += differences(
      getattr(old, name), getattr(new, name), f"{path}.{name}"
    )
  return lines
