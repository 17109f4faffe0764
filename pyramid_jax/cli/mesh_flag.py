"""--mesh: on which devices a command that trains nothing computes."""

import contextlib
import math

from absl import flags

from pyramid_jax.config import ConfigError, MeshConfig

F = flags.FLAGS


def define(default: str) -> None:
  """Defines the flag; `default` says what holds without it."""
  flags.DEFINE_list(
    "mesh", [], f"Devices an axis, as fsdp=2,sequence=4; by default {default}."
  )


def get():
  """The mesh of --mesh, or None; a CPU has as many devices as it needs.

  Raises:
    ConfigError: no such axes, or more devices than there are.
  """
  if not F.mesh:
    return None
  try:
    shape = {k: int(v) for k, v in (part.split("=") for part in F.mesh)}
    if min(shape.values()) < 1:
      raise ValueError(shape)
    config = MeshConfig(**{"fsdp": 1, **shape})
  except (ValueError, TypeError):
    raise ConfigError(
      f"--mesh={','.join(F.mesh)} is not a list of axis=devices, each at least "
      "1; axes are data, fsdp, tensor, sequence."
    ) from None
  import jax

  from pyramid_jax import sharding

  count = math.prod(shape.values())
  with contextlib.suppress(RuntimeError):  # a device was used already
    jax.config.update("jax_num_cpu_devices", count)
  devices = jax.local_devices()
  if count > len(devices):
    raise ConfigError(
      f"--mesh={','.join(F.mesh)} needs {count} devices; there are "
      f"{len(devices)}. Name fewer."
    )
  return sharding.make_mesh(config, devices[:count])
