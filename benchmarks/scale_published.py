"""What the published hours of the curriculum would have been spent on.

Legend: B clips, T frames, H W pixels, M text tokens.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import scale

from pyramid_jax.config import Config
from pyramid_jax.cost import chips, flops, report, workload
from pyramid_jax.models.pure import Pure, pure
from pyramid_jax.models.text import TextConfigs, TextModel
from pyramid_jax.models.vae import VAE

GPUS = 128
HOURS = {"image": 12, "384p": 90, "768p": 60}  # the paper's Sec. 4.2
PARTS = {"image": ["image"], "384p": ["384p_2s", "384p_5s"], "768p": ["768p"]}
PROMPT = 128  # text tokens of a prompt with its padding, as released
CLIP_PROMPT = 77
FRAMES = 17  # that the VAE's cost a pixel is counted on


class Spent(NamedTuple):
  """Operations of a stage, all of its steps."""

  needed: float  # by the transformer, valid tokens alone
  padding: float  # on the padding of prompts, dense layers alone
  text: float  # by the text encoders, once a sample
  vae: float  # by the VAE's encoder, once a sample

  def share(self, hours: float) -> list[float]:
    """Of the published hours' peak: needed, then with each part more."""
    peak = GPUS * chips.CHIPS["a100"].peak * 3600 * hours
    return [sum(self[: i + 1]) / peak for i in range(len(self))]


def of_stage(config: Config) -> Spent:
  """What the steps of a stage come to."""
  row = workload.measure(config, chips.CHIPS["a100"].tile)
  run = config.train.steps * config.latents.rows
  missing = max(PROMPT * row.samples - row.text, 0)
  dense = lambda text: (
    flops.training(config.model, row.latent, text, row.samples, row.pairs).dense
  )
  return Spent(
    needed=config.train.steps * workload.model_flops(config, row),
    padding=run * (dense(row.text + missing) - dense(row.text)),
    text=run * row.samples * of_prompt(),
    vae=run * row.samples * pixels(config) * of_pixel(config),
  )


def of_prompt() -> float:
  """FLOPs of the SD3-type text encoders on a padded prompt."""
  model = pure(lambda rngs: TextModel(TextConfigs(), rngs=rngs))
  ids = lambda n: jax.ShapeDtypeStruct((1, n), jnp.int32)
  t5, clip = ids(PROMPT), ids(CLIP_PROMPT)
  return traced(model, t5, t5, clip, clip)


def of_pixel(config: Config) -> float:
  """FLOPs of the VAE's encoder on a pixel of a clip's frame."""
  model = pure(lambda rngs: VAE(config.vae, rngs=rngs))
  shape = (1, FRAMES, *config.encode.sizes[0], 3)
  video = jax.ShapeDtypeStruct(shape, jnp.float32)
  return traced(model, video, method="encode") / math.prod(shape[:-1])


def traced(model: Pure, *args, **static) -> float:
  """FLOPs of a call."""
  call = lambda params, *args: model.apply(params, *args, **static)
  program = jax.make_jaxpr(call)(model.shapes, *args)
  return flops.traced(program, "cuda").flops


def pixels(config: Config) -> float:
  """Of a mean clip, cut to the stage's longest; all its frames."""
  space = 4 ** sum(config.vae.down_space)
  time = 2 ** sum(config.vae.down_time)
  sources, total = config.latents.sources, 0.0
  for i, source in enumerate(sources):
    clips = workload.assumed_lengths(config, source, i)
    latents = clips.frames.clip(max=config.latents.max_units or None)
    each = (time * (latents - 1) + 1) * clips.height * clips.width * space
    total += source.weight * each.mean()
  return float(total / sum(s.weight for s in sources))


HEAD = ("stage", "A100-hours", "FLOPs needed", "MFU", "and prompts padded",
        "and text encoders", "and VAE")  # fmt: skip


def table() -> str:
  """Each published stage of the MM-DiT, and all of them."""
  found = {
    name: [of_stage(scale.Cell("mmdit", s, "128 A100").config) for s in parts]
    for name, parts in PARTS.items()
  }
  found = {k: Spent(*map(sum, zip(*v, strict=True))) for k, v in found.items()}
  rows = [line(name, spent, HOURS[name]) for name, spent in found.items()]
  whole = Spent(*map(sum, zip(*found.values(), strict=True)))
  rows.append(line("all", whole, sum(HOURS.values())))
  return report.table(HEAD, rows, markdown=True)


def line(name: str, spent: Spent, hours: float) -> list[str]:
  """A row of the table."""
  shares = [f"{share:.0%}" for share in spent.share(hours)]
  return [name, f"{GPUS * hours:,.0f}", f"{spent.needed:.2e}", *shares]
