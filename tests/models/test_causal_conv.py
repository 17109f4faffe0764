"""The causal convolution against a plain 3D one, and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pyramid_jax.models import causal_conv
from pyramid_jax.models.causal_conv import CausalConv, SpaceUp, TimeUp
from pyramid_jax.models.init import resampling

make = functools.partial(CausalConv, 3, 4, rngs=nnx.Rngs(0), dtype="float32")


@pytest.fixture(params=["cpu", "tpu"])
def machine(request, monkeypatch):
  """A convolution as it is made for a platform; all of them run here."""
  monkeypatch.setattr(causal_conv, "platform", lambda: request.param)


def random_conv(**strides):
  """A convolution of which every tap and the bias are drawn."""
  conv = make(**strides)
  rng = np.random.default_rng(1)
  conv.kernel[...] = rng.normal(size=conv.kernel.shape).astype(np.float32)
  conv.bias[...] = rng.normal(size=conv.bias.shape).astype(np.float32)
  return conv


def clip(frames):
  rng = np.random.default_rng(frames)
  return jnp.asarray(rng.normal(size=(2, frames, 4, 6, 3)), jnp.float32)


def plain(conv, x):
  """One 3D convolution over the clip with two frames of zeros before it."""
  y = jax.lax.conv_general_dilated(
    x,
    conv.kernel[...],
    (conv.time_stride, conv.space_stride, conv.space_stride),
    ((2, 0), (1, 1), (1, 1)),
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )
  return y + conv.bias[...]


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize(
  "strides", [{}, {"time_stride": 2}, {"space_stride": 2}]
)
def test_it_is_a_3d_convolution_on_every_platform(frames, strides, machine):
  conv, x = random_conv(**strides), clip(frames)
  # sums of 81 products of order one, in float32
  np.testing.assert_allclose(conv(x, None)[0], plain(conv, x), atol=2e-5)


@pytest.mark.parametrize(
  ("strides", "sizes"),
  [
    ({}, (1, 1, 1, 2, 3)),
    ({}, (4, 4)),
    ({"time_stride": 2}, (1, 2, 4, 2)),
    ({"time_stride": 2}, (5, 4)),
    ({"space_stride": 2}, (1, 3, 2)),
  ],
)
def test_chunks_of_any_size_give_the_whole(strides, sizes, machine):
  conv, x = random_conv(**strides), clip(sum(sizes))
  cache, parts = None, []
  for chunk in jnp.split(x, np.cumsum(sizes)[:-1], 1):
    y, cache = conv(chunk, cache)
    parts.append(y)
  whole = conv(x, None)[0]
  np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=2e-5)


def test_a_single_frame_pays_for_one_tap_and_tpus_compile_one(monkeypatch):
  conv = random_conv()
  count = lambda frames: str(
    jax.make_jaxpr(lambda x: conv(x, None)[0])(clip(frames))
  ).count("conv_general_dilated[")
  assert [count(frames) for frames in (1, 2, 3, 9)] == [1, 2, 3, 3]
  monkeypatch.setattr(causal_conv, "platform", lambda: "tpu")
  assert [count(frames) for frames in (1, 2, 3, 9)] == [1, 1, 1, 1]


def test_the_first_frame_alone_is_not_doubled_in_time():
  up = TimeUp(3, rngs=nnx.Rngs(0), dtype="float32")
  up.conv = random_conv()
  up.conv.kernel = nnx.Param(
    jax.random.normal(jax.random.key(2), (3, 3, 3, 3, 6))
  )
  up.conv.bias = nnx.Param(jnp.arange(6.0))
  x = clip(3)
  doubled = plain(up.conv, x)  # [.., (p c)]
  frames = [doubled[:, 0, ..., 3:]]
  frames += [doubled[:, i, ..., p : p + 3] for i in (1, 2) for p in (0, 3)]
  y, cache = up(x, None)
  np.testing.assert_allclose(y, jnp.stack(frames, 1), atol=2e-5)
  assert up(x, cache)[0].shape[1] == 6


def test_resampling_starts_as_picking_and_repeating():
  new = dict(rngs=nnx.Rngs(0), dtype="float32")
  x = clip(3)
  space = SpaceUp(3, **new)(x, None)[0]
  np.testing.assert_array_equal(space, x.repeat(2, 2).repeat(2, 3))
  time = TimeUp(3, **new)(x, None)[0]
  np.testing.assert_array_equal(time, x.repeat(2, 1)[:, 1:])
  halve = dict(space_stride=2, time_stride=2, init=resampling)
  down = CausalConv(3, 3, **halve, **new)(x, None)[0]
  np.testing.assert_array_equal(down, x[:, ::2, ::2, ::2])
