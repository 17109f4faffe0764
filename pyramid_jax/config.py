"""Every setting of the system, as frozen dataclasses.

A file in `configs/` returns an `ml_collections.ConfigDict`; `from_dict` turns
it into a `Config` and refuses what it does not know. Functions take the part
of the config that they need, never the whole.
"""

import dataclasses
import json
import typing
from typing import Annotated, Any, Literal, TypeVar

from pyramid_jax.strict import (
  ConfigError,
  UserError,
  check_name,
  departures,
  differences,
  from_dict,
)

__all__ = ["ConfigError", "UserError", "departures", "differences", "from_dict"]

T = TypeVar("T")
Count = Annotated[int, 1]  # at least 1
Dtype = Literal["float32", "bfloat16"]


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

  stages: Count = 3
  stage_range: tuple[float, ...] = (0.0, 1 / 3, 2 / 3, 1.0)
  shift: float = 1.0
  gamma: float = 1 / 3  # the released code's positive value; paper: -gamma
  frames_per_unit: Count = 1  # latent frames
  history: Literal["pyramid", "none"] = "pyramid"  # none: full-sequence
  max_corruption: float = 1 / 3  # history noise is drawn from [0, this]
  upsample: Literal["nearest", "bilinear"] = "nearest"  # of the stage jump
  coupled: bool = True  # a stage's ends share their noise (or not: ablation)


@dataclasses.dataclass(frozen=True)
class DiTConfig:
  """Diffusion transformer; the default is the 2 B SD3-type MM-DiT."""

  kind: Literal["mmdit", "flux"] = "mmdit"
  layers: Count = 24  # blocks of two streams
  single_layers: int = 0  # flux: blocks after them with one set of weights
  heads: Count = 24
  head_dim: Count = 64
  mlp_ratio: Count = 4
  latent_channels: Count = 16
  patch: Count = 2
  text_dim: Count = 4096
  pooled_dim: Count = 2048
  table_size: int = 192  # mmdit: patches a side that the position table covers
  table_base: int = 64  # patches a side at which its positions are 0, 1, 2, ...
  rotary_dims: tuple[int, ...] = ()  # flux: of a head, for frame, y, x
  history_positions: Literal["interpolated", "plain"] = "interpolated"
  causal: bool = True  # or every frame sees every frame (ablation)
  dtype: Dtype = "bfloat16"  # of the matmuls; parameters stay float32
  # auto: tpu, gpu or xla by the platform; dense: for comparison
  attention: Literal["auto", "xla", "tpu", "gpu", "dense"] = "auto"
  # recomputed backwards: nothing; all but matmuls, attention; all but it; all
  remat: Literal["none", "matmuls", "attention", "layer"] = "layer"

  @property
  def grid(self) -> int | None:
    """Places a side of the position table; None: places begin at 0 (flux)."""
    return self.table_size if self.kind == "mmdit" else None


MINIFLUX = DiTConfig(
  kind="flux",
  layers=8,
  single_layers=16,
  heads=30,
  pooled_dim=768,
  rotary_dims=(16, 24, 24),
)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Causal 3D VAE, 8 x 8 x 8; the default is the released one."""

  channels: tuple[int, ...] = (128, 256, 512, 512)
  encoder_blocks: Count = 2  # residual blocks a level
  decoder_blocks: Count = 3
  latent_channels: Count = 16
  groups: Count = 32
  sample: bool = True  # latents are draws of their posterior; else its mean
  down_space: tuple[bool, ...] = (True, True, True, False)
  down_time: tuple[bool, ...] = (True, True, True, False)
  dtype: Dtype = "bfloat16"
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
  dtype: Dtype = "bfloat16"


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
  dtype: Dtype = "bfloat16"


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Where the text encoders lie and how their outputs are combined."""

  path: str = ""  # folder in the layout of a Hugging Face snapshot
  # T5 + [CLIP-L, CLIP-G]; or T5 + CLIP-L unprojected
  kind: Literal["sd3", "flux"] = "sd3"
  max_tokens: Count = 128
  dtype: Dtype = "bfloat16"  # of weights and features


@dataclasses.dataclass(frozen=True)
class Source:
  """One stored dataset of a mixture and the share of samples drawn from it."""

  path: str = ""
  weight: float = 1.0
  # (least, most) video frames of its clips, where pyramid-plan finds no data;
  # empty: those of `encode`
  frames: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Period:
  """A stretch of training on clips up to a length, in a mixture of its own."""

  steps: Count = 1000  # the last period goes on
  max_units: int = 0  # longest clip used, in units; 0: all of it
  # of the sources, 0 leaves one out; empty: their own
  weights: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class LatentDataConfig:
  """Packed rows from stored latents."""

  sources: tuple[Source, ...] = ()
  rows: Count = 8  # a step, over all devices
  latent_tokens: Count = 16384  # L, a row
  text_tokens: Count = 2048  # M, a row
  segments: Count = 64  # S, a row
  window: Count = 4096  # samples planned together
  drop_prompt: float = 0.1
  stage_weights: tuple[float, ...] = ()  # empty: uniform
  segments_per_clip: Count = 1
  max_units: int = 0  # longest clip used, in units; 0: all of it
  # in place of max_units and the sources' weights, one after the other
  periods: tuple[Period, ...] = ()
  workers: int = 0  # loader processes; 0: threads in this process


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of VAE training on clips of one shape, and images of it."""

  steps: Count = 1000
  batch: Count = 8
  frames: Count = 1  # 8 n + 1
  height: Count = 256
  width: Count = 256
  rate: float = 1.0  # times optimizer.learning_rate
  image_ratio: float = 0.0  # share of the steps whose batch is images
  images: int = 0  # of such a batch; 0: batch x frames, as many pixels

  @property
  def of_images(self) -> "Phase":
    """The phase as its image steps see it: clips of one frame."""
    return dataclasses.replace(
      self, frames=1, batch=self.images or self.batch * self.frames
    )

  @property
  def shapes(self) -> tuple["Phase", ...]:
    """What is compiled for it: clips, images, or both."""
    kinds = (self.image_ratio < 1, self), (self.image_ratio > 0, self.of_images)
    return tuple(shape for there, shape in kinds if there)


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
  # (height, width) a video may be cropped to; the nearest aspect ratio is taken
  sizes: tuple[tuple[int, int], ...] = ((384, 640),)
  image_sizes: tuple[tuple[int, int], ...] = ()  # of images; empty: `sizes`
  max_frames: Count = 121  # 8 n + 1
  min_frames: Count = 1
  batch: Count = 8  # clips encoded together, over a process's devices
  window: Count = 16  # frames a chunk of the VAE


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
  """The perceptual distance; the default is on the features of VGG16."""

  channels: tuple[int, ...] = (64, 128, 256, 512, 512)
  dtype: Dtype = "bfloat16"


@dataclasses.dataclass(frozen=True)
class AdversaryConfig:
  """A patch discriminator and its part in the VAE's loss."""

  kind: Literal["none", "image", "clip"] = "none"
  width: Count = 64
  layers: Count = 4
  dtype: Dtype = "bfloat16"
  loss: Literal["hinge", "vanilla"] = "hinge"
  weight: float = 0.5  # times the ratio of gradients at the last layer
  factor: float = 1.0  # of both its losses
  start: int = 0  # step from which it counts and learns
  warmup: int = 0  # steps over which it comes to count in full
  rate: float = 1.0  # times optimizer.learning_rate


@dataclasses.dataclass(frozen=True)
class VAELossConfig:
  """Weights of the VAE's loss."""

  pixel: float = 1.0
  kl: float = 1e-6
  perceptual: float = 0.0  # LPIPS; needs its weights
  lpips: str = ""  # file of the weights, .pth or .safetensors
  log_variance: float = 0.0  # of the likelihood of pixels
  adversary: AdversaryConfig = AdversaryConfig()


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW or Muon; a warm-up, then a constant rate or a cosine to zero."""

  method: Literal["adamw", "muon"] = "adamw"
  learning_rate: float = 1e-4
  warmup: int = 1000
  schedule: Literal["constant", "cosine"] = "constant"
  beta1: float = 0.9
  beta2: float = 0.95
  epsilon: float = 1e-6
  weight_decay: float = 1e-4
  muon_iterations: Count = 5  # of Newton and Schulz
  clip: float = 1.0  # global gradient norm
  ema: float = 0.9999  # decay a step


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length, reports, checkpoints and limits of a training run."""

  steps: Count = 50_000
  microbatches: Count = 1  # a step's rows, processed in this many parts
  log_every: Count = 50
  save_every: Count = 1000
  keep: Count = 3
  max_nonfinite: int = 0  # steps with a non-finite loss that may be skipped
  spike: float = 3.0  # a loss this much above its median names its samples
  profile: tuple[int, ...] = ()  # (first, last): a trace of these steps
  eval_clips: Count = 16  # held-out clips that a VAE is measured on
  pictures: int = 1000  # steps between pictures of reconstructions; 0: none
  new_data: bool = False  # go on with other data, rows or order than before
  init: str = ""  # run or converted folder whose weights a new run starts from


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
  """Defaults of the sampler."""

  height: Count = 384
  width: Count = 640
  frames: Count = 121  # video frames, 8 n + 1
  steps: tuple[int, ...] = (20, 20, 20)  # per stage, first frame
  video_steps: tuple[int, ...] = (10, 10, 10)  # per stage, later units
  guidance: float = 7.0
  video_guidance: float = 5.0
  given_guidance: float = 0.0  # in its place after given frames; 0: the same
  guidance_decay: float = 0.0  # subtracted per unit; 0: constant
  min_guidance: float = 2.0
  prompt_suffix: str = ""
  negative_prompt: str = ""
  fps: float = 24.0
  tile: int = 0  # pixels a side of a tile of the VAE; 0: whole frames
  renoise: bool = True  # corrective noise at the stage jump (or not: ablation)


# Sizes and scales of the released models, for whatever model is asked.
VIDEO = dict(video_guidance=5.0, given_guidance=4.0)
PRESETS = {
  "384p": dict(VIDEO, height=384, width=640, guidance=7.0),
  "768p": dict(VIDEO, height=768, width=1280, guidance=9.0),
  "image": dict(height=1024, width=1024, frames=1, guidance=7.0),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run. `kind` names what is trained: "vae" or "dit"."""

  kind: Literal["vae", "dit"] = "dit"
  seed: int = 0
  mesh: MeshConfig = MeshConfig()
  flow: FlowConfig = FlowConfig()
  model: DiTConfig = DiTConfig()
  vae: VAEConfig = VAEConfig()
  text: TextConfig = TextConfig()
  latents: LatentDataConfig = LatentDataConfig()
  videos: VideoDataConfig = VideoDataConfig()
  encode: EncodeConfig = EncodeConfig()
  vae_loss: VAELossConfig = VAELossConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  train: TrainConfig = TrainConfig()
  generate: GenerateConfig = GenerateConfig()


def check_path(path: str):
  """Refuses what is no setting, such as "model.layrs" on the command line.

  Raises:
    ConfigError: the nearest setting is named.
  """
  hint, where = Config, "config"
  for part in path.split("."):
    name = part.split("[")[0]
    if typing.get_origin(hint) is tuple:
      hint = typing.get_args(hint)[0]
    if not dataclasses.is_dataclass(hint):
      raise ConfigError(f"{where} is one setting, it has no {name!r}.")
    check_name(hint, name, where)
    hint = typing.get_type_hints(hint)[name]
    where += f".{name}"


def settings(**values: Any) -> Any:
  """What a config file returns: defaults with `values`, all to be changed."""
  # here, so that models import where only jax, flax, optax and einops are
  from ml_collections import ConfigDict

  return ConfigDict(dataclasses.asdict(from_dict(Config, values)))


def to_json(config: Any) -> str:
  """Writes a config so that `from_json` gives an equal one back."""
  return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(cls: type[T], text: str) -> T:
  """Reads what `to_json` wrote, as strictly as a config file."""
  return from_dict(cls, json.loads(text))
