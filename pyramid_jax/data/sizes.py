"""The pyramid of the settings; which sizes and lengths it can divide."""

from pyramid_jax.config import ConfigError, DiTConfig, FlowConfig, VAEConfig
from pyramid_jax.flow.schedule import Schedule, make_schedule


def schedule_of(flow: FlowConfig) -> Schedule:
  """The settings' pyramid.

  Raises:
    ConfigError: stages, range, shift or gamma that make none.
  """
  try:
    return make_schedule(flow.stages, flow.stage_range, flow.shift, flow.gamma)
  except ValueError as error:
    raise ConfigError(f"config.flow: {error}") from error


def check_size(
  height: int, width: int, flow: FlowConfig, model: DiTConfig, vae: VAEConfig
):
  """Refuses a size in pixels that has no whole patches at the lowest stage.

  Raises:
    ConfigError: names the value, the multiple and the nearest size; or the
      size is more than the position table covers.
  """
  space = 2 ** sum(vae.down_space)
  side = 2 ** (flow.stages - 1) * model.patch * space
  for name, size in (("height", height), ("width", width)):
    if size < 1 or size % side:
      near = max(round(size / side), 1) * side
      raise ConfigError(
        f"{name} {size} is not a multiple of {side} (2^({flow.stages}-1) x "
        f"patch {model.patch} x VAE {space}); nearest: {near}."
      )
    limit = (model.grid or 0) * model.patch * space
    if limit and size > limit:
      raise ConfigError(
        f"{name} {size} is more than the position table covers: {limit}; "
        "choose a smaller size or a larger config.model.table_size."
      )


def check_frames(frames: int, flow: FlowConfig, vae: VAEConfig):
  """Refuses a number of video frames that makes no whole units.

  Raises:
    ConfigError: names the value, the rule and the nearest number.
  """
  time = 2 ** sum(vae.down_time)
  step = time * flow.frames_per_unit
  if frames < 1 or (frames - 1) % step:
    near = max(round((frames - 1) / step), 0) * step + 1
    raise ConfigError(
      f"frames {frames} is not {step} n + 1 (VAE {time} x "
      f"{flow.frames_per_unit} latent frames a unit); nearest: {near}."
    )
