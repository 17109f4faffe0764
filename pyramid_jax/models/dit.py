"""The diffusion transformer that a config names."""

import functools

from pyramid_jax.config import DiTConfig
from pyramid_jax.models.flux import Flux
from pyramid_jax.models.mmdit import MMDiT
from pyramid_jax.models.pure import Pure, pure

KINDS = {"mmdit": MMDiT, "flux": Flux}


@functools.cache
def make_dit(config: DiTConfig) -> Pure:
  """It as pure functions of its parameters.

  Raises:
    ConfigError: settings that do not make a model of this kind.
  """
  return pure(lambda rngs: KINDS[config.kind](config, rngs=rngs))
