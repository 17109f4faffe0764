"""A VAE whose clips are split over devices: compiling that takes its time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import MeshConfig, VAEConfig
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import pure

CONFIG = VAEConfig(
  channels=(4, 8), encoder_blocks=1, decoder_blocks=1, latent_channels=4,
  groups=2, down_space=(True, False), down_time=(True, False), dtype="float32",
)  # fmt: skip
MODEL = pure(lambda rngs: vae_lib.VAE(CONFIG, rngs=rngs))
FRAMES, HEIGHT, WIDTH = 17, 32, 16  # 8 n + 1 frames
RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(2, FRAMES, HEIGHT, WIDTH, 3)).astype(np.float32)
NOISE = RNG.normal(size=(2, 9, 16, 8, 4)).astype(np.float32)


def loss(params, video):
  """A reconstruction through a draw of the latents, and its error."""
  moments = MODEL.apply(params, video, method="encode")
  z = vae_lib.posterior(moments).sample(NOISE)
  pixels = MODEL.apply(params, z, method="decode")
  return jnp.square(pixels - video).mean(), pixels


def run(shape):
  """(loss, pixels, gradient, bytes of a device) on a mesh of this shape."""
  mesh = sharding.make_mesh(
    MeshConfig(*shape), jax.devices()[: int(np.prod(shape))]
  )
  with jax.set_mesh(mesh):
    params = MODEL.init(0)
    video = sharding.place_batch(mesh, VIDEO, len(VIDEO))
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    compiled = step.lower(params, video).compile()
    (value, pixels), grad = jax.device_get(compiled(params, video))
  return value, pixels, grad, compiled.memory_analysis().temp_size_in_bytes


@pytest.fixture(scope="module")
def one_device():
  return run((1, 1, 1, 1))


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 1, 1, 4)])
def test_clips_split_over_devices_give_the_numbers_of_one(one_device, shape):
  value, pixels, grad, size = run(shape)
  # float32 sums in another order
  np.testing.assert_allclose(value, one_device[0], rtol=1e-6)
  np.testing.assert_allclose(pixels, one_device[1], atol=2e-5)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(one_device[2]))
  jax.tree.map(
    # the gradient of a key's bias is 0 but for rounding: no relative error
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
    grad,
    one_device[2],
  )
  print(f"{size} bytes a device; one alone {one_device[3]}")
  assert size < 1.5 * one_device[3] / np.prod(shape)
