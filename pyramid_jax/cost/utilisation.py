"""Model FLOPs utilisation of a run that is going on."""

from collections.abc import Callable

import jax

from pyramid_jax.config import Config
from pyramid_jax.cost import chips
from pyramid_jax.cost.workload import measure, model_flops


def utilisation(
  config: Config, mesh: jax.sharding.Mesh
) -> Callable[[float], float] | None:
  """MFU from the steps a second, of a transformer's run.

  FLOPs by the closed formula of `flops.training` on a mean row of the run's own
  plan; peaks by `chips.CHIPS`. None for a VAE, and on devices whose peak is not
  known.
  """
  chip = chips.of_kind(mesh.devices.flat[0].device_kind)
  if config.kind != "dit" or chip is None:
    return None
  need = model_flops(config, measure(config, chip.tile))
  return lambda steps: steps * need / (mesh.size * chip.peak)
