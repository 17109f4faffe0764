"""What is to be generated: from options in pixels to a plan in latents."""

from pyramid_jax.config import Config, ConfigError, GenerateConfig, VAEConfig
from pyramid_jax.data.sizes import check_frames, check_size
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
