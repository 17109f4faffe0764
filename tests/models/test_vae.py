"""The causal VAE against the released code's numbers, and its properties."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import ConfigError, MeshConfig, VAEConfig
from pyramid_jax.convert import vae as table
from pyramid_jax.convert.names import to_ours
from pyramid_jax.models import vae
from pyramid_jax.models.pure import pure
from tests.reference import load, max_error

RELEASED = VAEConfig(
  channels=(8, 12, 16, 16), latent_channels=4, groups=4, dtype="float32"
)
TINY = VAEConfig(
  channels=(4, 8),
  encoder_blocks=1,
  decoder_blocks=1,
  latent_channels=2,
  groups=2,
  down_space=(True, False),
  down_time=(True, False),
  dtype="float32",
)
# Upstream's own float32 noise is 5e-6; the rest is the order of summation.
TOLERANCE = 2e-5


@functools.cache
def model(config):
  return pure(lambda rngs: vae.VAE(config, rngs=rngs))


@functools.cache
def weights():
  tensors = load("vae_weights").under("param/")
  return to_ours(table.names(RELEASED), tensors, model(RELEASED).shapes)


@functools.cache
def tiny_params():
  """Random everywhere, the taps that start at zero too."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: rng.normal(size=s.shape, scale=0.2).astype(np.float32),
    model(TINY).shapes,
  )


@functools.cache
def run(method, config=RELEASED):
  """A method of the VAE, or a function of it, with its parameters first."""
  f = lambda params, *args: model(config).apply(params, *args, method=method)
  return jax.jit(f)


def last(x_torch):
  """Torch's B C T H W as our B T H W C."""
  return np.moveaxis(x_torch, 1, -1)


def clip(frames, size=8, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (1, frames, size, size, 3)).astype(np.float32)


def latents(frames, size=4, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(1, frames, size, size, 2)).astype(np.float32)


@pytest.mark.parametrize("frames", [3, 11])
def test_any_length_passes_in_chunks(frames):
  """Shorter than a window; two windows in a scan and a remainder."""
  params, x = tiny_params(), clip(frames)

  def both(v, x):
    whole = v.encode(x)
    z = whole[..., :2]
    encoded = whole, vae.encode_chunked(v, x, 4)
    return encoded, (v.decode(z), vae.decode_chunked(v, z, 2))

  for whole, chunked in run(both, TINY)(params, x):
    assert max_error(chunked, np.asarray(whole)) < TOLERANCE


@pytest.mark.parametrize(
  ("method", "x", "sees"),
  [
    ("encode", clip(7), lambda latent, frame: frame <= 2 * latent),
    ("decode", latents(4), lambda frame, latent: latent <= (frame + 1) // 2),
  ],
)
def test_later_frames_have_exactly_zero_influence(method, x, sees):
  f = lambda x: model(TINY).apply(tiny_params(), x, method=method)

  @jax.jit
  def influence(x):
    y, pull = jax.vjp(f, x)
    # one output frame at a time, with random weights: no sum that vanishes
    weights = jax.random.normal(jax.random.key(0), y.shape)
    frame = jnp.eye(y.shape[1])[:, None, :, None, None, None]
    (grads,) = jax.vmap(pull)(frame * weights)
    return jnp.abs(grads).max((1, 3, 4, 5))

  found = np.asarray(influence(x))
  allowed = np.fromfunction(np.vectorize(sees), found.shape)
  np.testing.assert_array_equal(found[~allowed], 0.0)
  # the newest frame that may be seen is seen
  newest = np.array([row.nonzero()[0].max() for row in allowed])
  assert (found[np.arange(len(found)), newest] > 0).all()


def test_remat_recomputes_the_same():
  remat = dataclasses.replace(TINY, remat=True)

  def loss(config, params):
    return jnp.square(
      model(config).apply(params, clip(1), method="encode")
    ).sum()

  grads = {c: jax.grad(functools.partial(loss, c)) for c in (TINY, remat)}
  programs = {c: str(jax.make_jaxpr(grads[c])(tiny_params())) for c in grads}
  assert "prevent_cse" not in programs[TINY]
  # in, 2 levels, middle, out
  assert programs[remat].count("prevent_cse") == 5
  plain, again = (jax.jit(grads[c])(tiny_params()) for c in grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    plain,
    again,
  )


def test_bfloat16_is_close_to_float32():
  half = dataclasses.replace(TINY, dtype="bfloat16")
  assert {s.dtype for s in jax.tree.leaves(model(half).shapes)} == {
    jnp.dtype("float32")
  }
  for method, x in (("encode", clip(3)), ("decode", latents(1))):
    full = run(method, TINY)(tiny_params(), x)
    low = run(method, half)(tiny_params(), x)
    assert low.dtype == jnp.float32
    # eight bits of mantissa, through some twenty convolutions
    assert 0 < max_error(low, full) < 0.05


def test_a_mesh_changes_nothing():
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  m, params, x = model(TINY), tiny_params(), np.concatenate([clip(3)] * 4)
  x = x * np.linspace(0.2, 1, 4, dtype=np.float32)[:, None, None, None, None]
  places = sharding.tree_shardings(mesh, m.shapes, m.axes)
  block = places["encoder"]["levels"][1]["blocks"][0]["first"]
  split = jax.P(None, None, None, "fsdp", "tensor")
  assert block["conv"]["kernel"].spec == split
  with jax.set_mesh(mesh):
    split = run(lambda v, x: v.encode(x), TINY)(
      jax.device_put(params, places), sharding.place_batch(mesh, x, len(x))
    )
  alone = run("encode", TINY)(params, x)
  np.testing.assert_allclose(split, alone, atol=TOLERANCE)


def test_the_full_size_has_the_released_parameters():
  full = model(VAEConfig())
  assert full.size == 335_402_067
  kernel = full.shapes["decoder"]["levels"][0]["resample"][0]["conv"]["kernel"]
  assert kernel.shape == (3, 3, 3, 512, 4 * 512)
  out = jax.eval_shape(
    lambda p, x: full.apply(p, x, method="encode"),
    full.shapes,
    jax.ShapeDtypeStruct((1, 9, 64, 96, 3), np.float32),
  )
  assert (out.shape, out.dtype) == ((1, 2, 8, 12, 32), np.float32)
  back = jax.eval_shape(
    lambda p, z: full.apply(p, z, method="decode"),
    full.shapes,
    jax.ShapeDtypeStruct((1, 2, 8, 12, 16), np.float32),
  )
  assert (back.shape, back.dtype) == ((1, 9, 64, 96, 3), np.float32)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"down_space": (True,)}, "down_space is .*one value for each of the 2"),
    ({"down_time": (True, True)}, "down_time is .*last of them False"),
    ({"groups": 3}, "4 is not a multiple of vae.groups 3"),
  ],
)
def test_settings_that_make_no_vae_are_named(changes, message):
  with pytest.raises(ConfigError, match=message):
    model(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize(
  ("shape", "message"),
  [
    ((1, 4, 8, 8, 3), "4 frames, not 2 n \\+ 1; trim it to 3"),
    ((1, 3, 8, 9, 3), "width 9 is not a multiple of 2 .*nearest: 8"),
    ((1, 3, 7, 8, 3), "height 7 is not a multiple of 2"),
  ],
)
def test_clips_that_do_not_halve_are_named(shape, message):
  with pytest.raises(vae.ClipShapeError, match=message):
    model(TINY).apply(tiny_params(), np.zeros(shape), method="encode")


def test_a_clip_goes_on_in_whole_latents():
  first = clip(3)
  _, cache = run("encode_chunk", TINY)(tiny_params(), first, None)
  with pytest.raises(vae.ClipShapeError, match="going on has 3 .*trim it to 2"):
    model(TINY).apply(tiny_params(), first, cache, method="encode_chunk")
