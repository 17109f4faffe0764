"""What the diffusion models know of a prompt: T5 features, one CLIP vector.

The features go beside the latent tokens in attention, the vector into the
modulation. Released models combine the encoders in two ways:
  "sd3": T5; CLIP-L and CLIP-G, projected, one after the other.
  "flux": T5; CLIP-L, not projected.

Legend: B prompts, M T5 tokens, Q CLIP tokens, E T5 width, P pooled width.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.config import CLIPConfig, ConfigError, T5Config
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.t5 import T5

CLIPS = {"sd3": 2, "flux": 1}  # CLIP encoders of each kind

CLIP_L = CLIPConfig()
CLIP_G = CLIPConfig(
  width=1280,
  hidden=5120,
  projection=1280,
  layers=32,
  heads=20,
  activation="gelu",
)


@dataclasses.dataclass(frozen=True)
class TextConfigs:
  """The encoders of one kind; the default is the released SD3-type.

  Raises:
    ConfigError: an unknown kind, or CLIPs that do not suit it.
  """

  kind: str = "sd3"
  t5: T5Config = T5Config()
  clips: tuple[CLIPConfig, ...] = (CLIP_L, CLIP_G)

  def __post_init__(self):
    if self.kind not in CLIPS:
      raise ConfigError(
        f"text kind {self.kind!r} is unknown; use one of {', '.join(CLIPS)}."
      )
    if len(self.clips) != CLIPS[self.kind]:
      raise ConfigError(
        f"text kind {self.kind!r} takes {CLIPS[self.kind]} CLIP configs, not "
        f"{len(self.clips)}."
      )
    if any((c.projection > 0) != (self.kind == "sd3") for c in self.clips):
      raise ConfigError(
        f"text kind {self.kind!r} with CLIP projections "
        f"{[c.projection for c in self.clips]}; sd3 projects, flux does not "
        "(projection 0)."
      )

  @property
  def pooled(self) -> int:
    """Width P of the pooled vector."""
    return sum(c.projection or c.width for c in self.clips)


def combine(
  kind: str, t5: T5Config, clips: Sequence[CLIPConfig]
) -> TextConfigs:
  """The encoders of a kind; flux-type drops the CLIP's projection.

  Raises:
    ConfigError: an unknown kind, or another number of CLIPs than it takes.
  """
  if kind == "flux":
    clips = [dataclasses.replace(clip, projection=0) for clip in clips]
  return TextConfigs(kind, t5, tuple(clips))


class TextModel(nnx.Module):
  """T5 and the CLIPs of one kind."""

  def __init__(self, configs: TextConfigs, *, rngs: nnx.Rngs):
    self.t5 = T5(configs.t5, rngs=rngs)
    self.clip_l = CLIPText(configs.clips[0], rngs=rngs)
    self.clip_g = (
      CLIPText(configs.clips[1], rngs=rngs) if configs.kind == "sd3" else None
    )

  def __call__(
    self, t5_BM: jax.Array, mask_BM: jax.Array, *clips_BQ: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Features [B, M, E] and pooled [B, P], float32, of token ids.

    One array of CLIP ids per CLIP, each from its own tokenizer. Features
    where `mask_BM` is 0 mean nothing.
    """
    clips = (
      (self.clip_l,) if self.clip_g is None else (self.clip_l, self.clip_g)
    )
    pooled = [c(ids)[1] for c, ids in zip(clips, clips_BQ, strict=True)]
    return self.t5(t5_BM, mask_BM), jnp.concatenate(pooled, axis=-1)
