"""Weights of LPIPS and of the discriminators, both ways."""

import jax
import numpy as np
import pytest

from pyramid_jax.config import AdversaryConfig, LPIPSConfig
from pyramid_jax.convert import names
from pyramid_jax.convert.models import DISCRIMINATOR, LPIPS_VGG
from pyramid_jax.convert.names import NameTableError
from tests.reference import load

PARTS = {
  "lpips": (LPIPS_VGG, "param/perceptual_loss."),
  "image": (DISCRIMINATOR, "param/discriminator."),
  "clip": (DISCRIMINATOR, "param3d/discriminator."),
}


@pytest.mark.parametrize("name", PARTS)
def test_released_weights_come_back_bit_equal(name):
  model, prefix = PARTS[name]
  torch = load("vae_loss").under(prefix)
  config = model.read_config(torch)
  back = model.to_torch(config, model.from_torch(config, torch))
  assert back.keys() == torch.keys()
  for key, value in torch.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)


# channels in times channels out, of all convolutions of a discriminator
PRODUCTS = 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 512 + 512


@pytest.mark.parametrize(
  "model, config, count",
  [
    # VGG16's convolutions (14,714,688) and a weight for each of 1472 channels
    (LPIPS_VGG, LPIPSConfig(), 14_716_160),
    (
      DISCRIMINATOR,
      AdversaryConfig("image"),
      PRODUCTS * 4**2 + 64 + 128 + 256 + 512 + 512 + 1,
    ),
    (
      DISCRIMINATOR,
      AdversaryConfig("clip"),
      PRODUCTS * 4**3 + 64 + 128 + 256 + 512 + 512 + 1,
    ),
  ],
)
def test_full_sizes(model, config, count):
  shapes = model.make(config).shapes
  sizes = [int(np.prod(x.shape)) for x in jax.tree.leaves(shapes)]
  torch = names.torch_shapes(model.names(config), shapes)
  assert sum(sizes) == count == sum(int(np.prod(s)) for s in torch.values())


def test_linear_layers_alone_or_other_constants_are_refused():
  torch = load("vae_loss").under(PARTS["lpips"][1])
  config = LPIPS_VGG.read_config(torch)
  with pytest.raises(NameTableError, match="not the weights of LPIPS: lin0"):
    LPIPS_VGG.read_config({"features.0.weight": torch["lin0.model.1.weight"]})
  lin = {k: x for k, x in torch.items() if k.startswith("lin")}
  with pytest.raises(NameTableError, match="net.slice1.0.weight"):
    LPIPS_VGG.from_torch(config, lin)
  other = {**torch, "scaling_layer.shift": np.zeros((1, 3, 1, 1))}
  with pytest.raises(NameTableError, match="scaling_layer.shift is"):
    LPIPS_VGG.from_torch(config, other)
