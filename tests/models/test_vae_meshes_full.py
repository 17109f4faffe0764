"""A VAE whose clips are split over devices: compiling that takes its time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import MeshConfig, VAEConfig
from pyramid_jax.models import causal_conv
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import pure

CONFIG = VAEConfig(
  channels=(4, 8), encoder_blocks=1, decoder_blocks=1, latent_channels=4,
  groups=2, down_space=(True, False), down_time=(True, False), dtype="float32",
)  # fmt: skip
MODEL = pure(lambda rngs: vae_lib.VAE(CONFIG, rngs=rngs))
RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(2, 33, 32, 16, 3)).astype(np.float32)  # 8 n + 1 frames
NOISE = RNG.normal(size=(2, 17, 16, 8, 4)).astype(np.float32)


def loss(params, video):
  """A reconstruction through a draw of the latents, and its error."""
  moments = MODEL.apply(params, video, method="encode")
  _, t, h, _, _ = moments.shape
  z = vae_lib.posterior(moments).sample(NOISE[:, :t, :h])
  pixels = MODEL.apply(params, z, method="decode")
  return jnp.square(pixels - video).mean(), pixels


def make_mesh(shape):
  devices = jax.devices()[: int(np.prod(shape))]
  return sharding.make_mesh(MeshConfig(*shape), devices)


def placed(mesh):
  """The parameters as a run has them: split as the mesh says."""
  places = sharding.tree_shardings(mesh, MODEL.shapes, MODEL.axes)
  params = jax.device_put(MODEL.init(0), places)
  whole = all(x.is_fully_replicated for x in jax.tree.leaves(params))
  assert whole == (mesh.shape["fsdp"] * mesh.shape["tensor"] == 1)
  return params


def run(shape, frames=17, height=32):
  """(loss, pixels, gradient, bytes of a device) on a mesh of this shape."""
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    params = placed(mesh)
    video = VIDEO[:, :frames, :height]
    video = sharding.place_batch(mesh, video, len(VIDEO))
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    compiled = step.lower(params, video).compile()
    (value, pixels), grad = jax.device_get(compiled(params, video))
  return value, pixels, grad, compiled.memory_analysis().temp_size_in_bytes


@functools.cache
def one_device(frames=17, height=32):
  return run((1, 1, 1, 1), frames, height)


def assert_same(found, expected):
  # float32 sums in another order
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], atol=2e-5)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(expected[2]))
  jax.tree.map(
    # the gradient of a key's bias is 0 but for rounding: no relative error
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
    found[2],
    expected[2],
  )


@pytest.mark.parametrize(
  "shape, frames",
  [
    ((1, 1, 1, 4), 17),
    ((2, 1, 1, 4), 17),
    ((1, 2, 1, 4), 17),
    ((1, 2, 1, 2), 17),
    ((1, 1, 1, 4), 33),
  ],
)
def test_clips_split_over_devices_give_the_numbers_of_one(shape, frames):
  *found, size = run(shape, frames)
  *expected, alone = one_device(frames)
  assert_same(found, expected)
  print(f"{size} bytes a device; one alone {alone}")
  assert size < 1.5 * alone / np.prod(shape)


def test_the_convolutions_of_tpus_are_split_too(monkeypatch):
  expected = one_device()
  monkeypatch.setattr(causal_conv, "platform", lambda: "tpu")
  assert_same(run((1, 2, 1, 4)), expected)


def test_a_height_that_devices_do_not_divide_gives_the_same_pixels():
  # of 24 rows each of 8 devices has 3, of the 12 after halving all have all
  found, expected = run((1, 1, 1, 8), height=24), one_device(height=24)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], atol=2e-5)


@pytest.mark.parametrize(
  "shape, platform",
  [((1, 1, 1, 4), "cpu"), ((1, 2, 1, 4), "tpu"), ((1, 1, 2, 4), "cpu")],
)
def test_chunks_split_over_devices_decode_to_the_whole(
  shape, platform, monkeypatch
):
  """As generation decodes: latents 0, 1 to 8 and 9 to 16 of 33 frames."""

  def decode(params, z, cache):
    return MODEL.apply(params, z, cache, method="decode_chunk")

  with jax.set_mesh(make_mesh((1, 1, 1, 1))):
    whole, _ = jax.jit(decode)(MODEL.init(0), NOISE, None)
  assert whole.shape == VIDEO.shape
  monkeypatch.setattr(causal_conv, "platform", lambda: platform)
  mesh, cache, parts = make_mesh(shape), None, []
  with jax.set_mesh(mesh):
    params, step = placed(mesh), jax.jit(lambda *x: decode(*x))
    for z in np.split(NOISE, [1, 9], 1):
      z = sharding.place_batch(mesh, z, len(z))
      pixels, cache = step(params, z, cache)
      parts.append(np.asarray(pixels))
  # float32 sums in another order
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)
