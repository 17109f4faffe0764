"""The released models: how the config and the tensors of each are ours.

Everything that reads or writes weights of the PyTorch code goes by this table.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from pyramid_jax.config import (
  AdversaryConfig,
  CLIPConfig,
  DiTConfig,
  LPIPSConfig,
  T5Config,
  VAEConfig,
)
from pyramid_jax.convert import critic, dit, names, text, vae
from pyramid_jax.convert.names import Name
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.discriminator import Discriminator
from pyramid_jax.models.dit import make_dit
from pyramid_jax.models.lpips import LPIPS
from pyramid_jax.models.pure import Params, Pure, pure
from pyramid_jax.models.t5 import T5
from pyramid_jax.models.vae import VAE


@dataclasses.dataclass(frozen=True)
class Model:
  """One kind of model.

  Attributes:
    config: the class of its config.
    read_config: our config, in float32, from a config.json.
    write_config: a config.json from ours.
    names: the name table of a config.
    make: the model as pure functions.
    tensors: a state dict under the released names, without what is computed.
    buffers: what a state dict holds besides parameters.
  """

  config: type
  read_config: Callable[[Mapping[str, Any]], Any]
  write_config: Callable[[Any], dict[str, Any]]
  names: Callable[[Any], list[Name]]
  make: Callable[[Any], Pure]
  tensors: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = (
    lambda config, tensors: tensors
  )
  buffers: Callable[[Any], dict[str, Any]] = lambda config: {}

  def from_torch(
    self, config: Any, tensors: Mapping[str, Any], shapes: Params | None = None
  ) -> Params:
    """Our parameters from a torch state dict, as numpy.

    `shapes` may ask for other dtypes than float32.

    Raises:
      NameTableError: tensors that are missing, unknown or misshaped.
    """
    shapes = self.make(config).shapes if shapes is None else shapes
    tensors = self.tensors(config, tensors)
    return names.to_ours(self.names(config), tensors, shapes)

  def to_torch(self, config: Any, params: Params) -> dict[str, Any]:
    """The torch state dict of our parameters, buffers included."""
    tensors = names.to_torch(self.names(config), params)
    return {**self.buffers(config), **tensors}


@functools.cache
def _make(kind: type, config: Any) -> Pure:
  return pure(lambda rngs: kind(config, rngs=rngs))


DIT = Model(
  DiTConfig,
  dit.config_from_torch,
  dit.config_to_torch,
  dit.names,
  make_dit,
  dit.tensors,
  dit.buffers,
)
CAUSAL_VAE = Model(
  VAEConfig,
  vae.config_from_torch,
  vae.config_to_torch,
  vae.names,
  functools.partial(_make, VAE),
)
T5_ENCODER = Model(
  T5Config,
  text.t5_config,
  text.t5_json,
  text.t5_names,
  functools.partial(_make, T5),
  text.t5_tensors,
)
CLIP_ENCODER = Model(
  CLIPConfig,
  text.clip_config,
  text.clip_json,
  text.clip_names,
  functools.partial(_make, CLIPText),
  text.clip_tensors,
)
LPIPS_VGG = Model(  # without a config.json: the tensors say their sizes
  LPIPSConfig,
  critic.lpips_config,
  dataclasses.asdict,
  critic.lpips_names,
  functools.partial(_make, LPIPS),
  critic.lpips_tensors,
  lambda config: critic.BUFFERS,
)
DISCRIMINATOR = Model(
  AdversaryConfig,
  critic.discriminator_config,
  dataclasses.asdict,
  critic.discriminator_names,
  functools.partial(_make, Discriminator),
)
