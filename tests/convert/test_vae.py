"""The causal VAE's name table."""

import jax
import numpy as np
import pytest

from pyramid_jax.config import ConfigError, VAEConfig
from pyramid_jax.convert import names
from pyramid_jax.convert import vae as table
from pyramid_jax.models import vae
from pyramid_jax.models.pure import pure
from tests.reference import load

SMALL = VAEConfig(
  channels=(8, 12, 16, 16), latent_channels=4, groups=4, dtype="float32"
)


def shapes(config):
  return pure(lambda rngs: vae.VAE(config, rngs=rngs)).shapes


def test_released_weights_come_back_bit_equal():
  torch = load("vae_weights").under("param/")
  ours = names.to_ours(table.names(SMALL), torch, shapes(SMALL))
  back = names.to_torch(table.names(SMALL), ours)
  assert back.keys() == torch.keys()
  for name, value in torch.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_our_weights_come_back_bit_equal():
  rng = np.random.default_rng(0)
  draw = lambda s: rng.normal(size=s.shape).astype(np.float32)
  ours = jax.tree.map(draw, shapes(SMALL))
  torch = names.to_torch(table.names(SMALL), ours)
  back = names.to_ours(table.names(SMALL), torch, shapes(SMALL))
  jax.tree.map(np.testing.assert_array_equal, back, ours)


def test_the_full_size_has_the_released_shapes():
  torch = names.torch_shapes(table.names(VAEConfig()), shapes(VAEConfig()))
  assert sum(int(np.prod(s)) for s in torch.values()) == 335_402_067
  assert len(torch) == len(load("vae_weights").under("param/"))
  up = "decoder.up_blocks.2.{}.0.conv.conv.weight"
  assert torch[up.format("upsamplers")] == (1024, 256, 3, 3, 3)
  assert torch[up.format("temporal_upsamplers")] == (512, 256, 3, 3, 3)
  assert torch["encoder.mid_block.attentions.0.to_q.weight"] == (512, 512)


def test_the_config_of_the_released_code_is_ours():
  values = load("vae_weights").config["model"]
  assert table.config_from_torch(values) == SMALL
  for key, other, message in (
    (
      "decoder_norm_num_groups",
      2,
      "encoder_norm_num_groups is 4, decoder_.* 2",
    ),
    ("encoder_layers_per_block", [2, 2, 2, 1], r"\[2, 2, 2, 1\] differ"),
  ):
    with pytest.raises(ConfigError, match=message):
      table.config_from_torch({**values, key: other})
