"""The networks that judge reconstructions while a VAE is trained."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax

from pyramid_jax import sharding
from pyramid_jax.config import Config, ConfigError, LPIPSConfig
from pyramid_jax.convert import names, snapshot
from pyramid_jax.convert.models import DISCRIMINATOR, LPIPS_VGG
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.train.optimizer import make_optimizer
from pyramid_jax.train.state import Trainee


class Judges(NamedTuple):
  """None: without.

  Attributes:
    lpips: the perceptual distance; its weights are an argument of the step.
    adversary: the discriminator and its optimizer.
  """

  lpips: Pure | None = None
  adversary: Trainee | None = None


def make_judges(
  config: Config, lpips_sizes: LPIPSConfig | None = None
) -> Judges:
  """The networks that the config's loss asks for.

  LPIPS has the sizes of its file unless they are given.

  Raises:
    ConfigError: there is no file of LPIPS weights.
    NameTableError: the file holds others.
  """
  loss, lpips, adversary = config.vae_loss, None, None
  if loss.perceptual:
    sizes = lpips_sizes
    if sizes is None:
      with names.named(loss.lpips):
        sizes = LPIPS_VGG.read_config(_tensors(config))
    lpips = LPIPS_VGG.make(dataclasses.replace(sizes, dtype=config.vae.dtype))
  if loss.adversary.kind != "none":
    model = DISCRIMINATOR.make(loss.adversary)
    phases = (
      (phase.steps, phase.rate * loss.adversary.rate)
      for phase in config.videos.phases
    )
    tx = make_optimizer(config.optimizer, model.axes, *phases)
    adversary = Trainee(model, tx)
  return Judges(lpips, adversary)


def load_lpips(config: Config, model: Pure, mesh: jax.sharding.Mesh) -> Params:
  """The weights of LPIPS on a mesh; raises as `make_judges`."""
  tensors = _tensors(config)
  with names.named(config.vae_loss.lpips):
    sizes = LPIPS_VGG.read_config(tensors)
    params = LPIPS_VGG.from_torch(sizes, tensors)
  places = sharding.tree_shardings(mesh, model.shapes, model.axes)
  return jax.device_put(params, places)


def _tensors(config: Config) -> dict[str, Any]:
  path = config.vae_loss.lpips
  if not path or not pathlib.Path(path).is_file():
    raise ConfigError(
      f"config.vae_loss.perceptual is {config.vae_loss.perceptual:g}, which "
      f"needs the weights of LPIPS, and config.vae_loss.lpips {path!r} is no "
      "file; name the vgg_lpips.pth that the released code trains with, or set "
      "perceptual to 0."
    )
  return snapshot.open_tensors(path)
