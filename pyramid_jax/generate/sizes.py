"""What is to be generated: from options in pixels to a plan in latents."""

import numpy as np

from pyramid_jax.attention import tpu
from pyramid_jax.config import Config, ConfigError, GenerateConfig, VAEConfig
from pyramid_jax.data.sizes import check_frames, check_size
from pyramid_jax.flow import history
from pyramid_jax.flow.plan import Plan


def sampling_plan(
  config: Config, options: GenerateConfig, vae: VAEConfig
) -> Plan:
  """What to generate, in latents.

  Raises:
    ConfigError: a size or length that the pyramid cannot divide; the nearest
      that it can is named.
  """
  model, flow = config.model, config.flow
  check_size(options.height, options.width, flow, model, vae)
  check_frames(options.frames, flow, vae)
  for name in ("steps", "video_steps"):
    steps = getattr(options, name)
    if len(steps) != flow.stages or min(steps) < 1:
      raise ConfigError(
        f"config.generate.{name} is {steps}; give a number of steps, at "
        f"least 1, for each of the {flow.stages} stages."
      )
  if not options.renoise and flow.stages > 1 and not flow.gamma:
    raise ConfigError(
      "config.generate.renoise is False at config.flow.gamma 0, where a stage "
      "starts from that noise alone; leave it on, or train with gamma 1/3."
    )
  space = 2 ** sum(vae.down_space)
  time = 2 ** sum(vae.down_time)
  if options.tile % (4 * space):
    near = max(round(options.tile / (4 * space)), 1) * 4 * space
    raise ConfigError(
      f"config.generate.tile is {options.tile}; it must be a multiple of "
      f"{4 * space} (a quarter overlaps, VAE {space}), or 0; nearest: {near}."
    )
  return Plan(
    frames=(options.frames - 1) // time + 1,
    height=options.height // space,
    width=options.width // space,
    channels=model.latent_channels,
    steps=options.steps,
    later_steps=options.video_steps,
    guidance=options.guidance,
    later_guidance=options.video_guidance,
    guidance_decay=options.guidance_decay,
    min_guidance=options.min_guidance,
    frames_per_unit=flow.frames_per_unit,
    patch=model.patch,
    upsample=flow.upsample,
    renoise=options.renoise,
    positions=model.history_positions,
    table_size=model.grid,
    full_sequence=flow.history == "none",
  )


def first_given(given: np.ndarray | None, prompts: int) -> np.ndarray | None:
  """The first of the given clips, which are all of one shape, or None.

  Raises:
    ConfigError: another number of clips than of prompts.
  """
  if given is None:
    return None
  if len(given) != prompts:
    raise ConfigError(
      f"{len(given)} given clips for {prompts} prompts; give one for each."
    )
  return given[0]


def given_units(
  given: np.ndarray | None,
  plan: Plan,
  options: GenerateConfig,
  vae: VAEConfig,
) -> int:
  """How many units of a plan the given frames [T0, H, W, 3] of a clip are.

  Raises:
    ConfigError: a model without history, frames of another size, or so many
      that they make no whole units or leave nothing to generate.
  """
  if given is None:
    return 0
  frames, *size = given.shape
  time = 2 ** sum(vae.down_time)
  step = time * plan.frames_per_unit
  if plan.full_sequence:
    raise ConfigError(
      f"{frames} given frames: this model makes a clip all at once "
      "(config.flow.history 'none') and cannot go on from any; give none, or "
      "take a model that was trained with history."
    )
  if size != [options.height, options.width, 3]:
    raise ConfigError(
      f"given frames of {' x '.join(map(str, size))}, asked are "
      f"{options.height} x {options.width} x 3 (height, width, colours); "
      "resize them, or ask for their size."
    )
  if frames < 1 or (frames - 1) % step:
    near = max(frames - 1, 0) // step * step + 1
    raise ConfigError(
      f"{frames} given frames are not {step} n + 1 (VAE {time} x "
      f"{plan.frames_per_unit} latent frames a unit); give {near} of them."
    )
  if frames >= options.frames:
    raise ConfigError(
      f"{frames} given frames leave nothing to generate of frames "
      f"{options.frames}; make it {frames + step} or more."
    )
  return history.unit_count((frames - 1) // time + 1, plan.frames_per_unit)


def check_rows(
  config: Config, plan: Plan, text_tokens: int, platform: str, parts: int = 1
):
  """Refuses what attention on a platform would in the last unit's row.

  It has the longest history, so that all other units would be done by then.
  `parts` is into how many a mesh splits the tokens of latents and of text.

  Raises:
    ConfigError: with the limit and what to do.
  """
  if platform != "tpu" or config.model.attention not in ("auto", "tpu"):
    return
  stages, full = config.flow.stages, plan.height * plan.width // plan.patch**2
  latent = max(
    history.token_count(plan.clips(plan.units - 1, k), full, stages)
    for k in range(stages)
  )
  tokens = sum(-(-n // parts) * parts for n in (latent, text_tokens))
  if tokens > tpu.LIMIT:
    raise ConfigError(
      f"the last unit has a row of {tokens} tokens, text and latent, which "
      f"exceeds the {tpu.LIMIT} of attention on TPU; ask for a smaller height "
      "or width or fewer frames, or generate on GPUs."
    )
