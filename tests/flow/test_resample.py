"""Down, Up, pyramids and patches."""

import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.flow import resample

RNG = np.random.default_rng(0)
VIDEO = RNG.standard_normal((2, 3, 8, 12, 4)).astype(np.float32)


def bilinear(x, size):
  """Half-pixel, no antialias, by its definition, along axis 0."""
  at = (np.arange(size) + 0.5) * len(x) / size - 0.5
  at = np.clip(at, 0, len(x) - 1)
  low = np.floor(at).astype(int)
  high = np.minimum(low + 1, len(x) - 1)
  part = (at - low).reshape(-1, *[1] * (x.ndim - 1))
  return (1 - part) * x[low] + part * x[high]


def resize(x, height, width):
  """`bilinear` along H and W of [..., H, W, C]."""
  x = np.moveaxis(bilinear(np.moveaxis(x, -3, 0), height), 0, -3)
  return np.moveaxis(bilinear(np.moveaxis(x, -2, 0), width), 0, -2)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_down_and_up_are_half_pixel_bilinear(array):
  x = array(VIDEO)
  # float32 sums in another order
  np.testing.assert_allclose(resample.down(x), resize(VIDEO, 4, 6), atol=1e-6)
  np.testing.assert_allclose(
    resample.up(x, "bilinear"), resize(VIDEO, 16, 24), atol=1e-6
  )
  assert type(resample.up(x, "bilinear")) is type(x)
  assert type(resample.down(x)) is type(x)
  assert resample.down(x).dtype == np.float32


def test_nearest_up_repeats_every_value():
  np.testing.assert_array_equal(
    resample.up(VIDEO), VIDEO.repeat(2, -3).repeat(2, -2)
  )


def test_down_undoes_up():
  np.testing.assert_array_equal(resample.down(resample.up(VIDEO)), VIDEO)


def test_noise_pyramid_keeps_unit_variance_at_every_level():
  noise = RNG.standard_normal((64, 64, 64, 1))
  for level in resample.noise_pyramid(noise, 3):
    error = 4 / np.sqrt(level.size)  # 4 standard errors, of mean and deviation
    np.testing.assert_allclose(level.mean(), 0, atol=error)
    np.testing.assert_allclose(level.std(), 1, atol=error)


def test_coarse_pyramid_is_zero_at_the_lowest_level():
  levels = resample.pyramid(VIDEO, 3)
  coarse = resample.coarse_pyramid(levels)
  assert [c.shape for c in coarse] == [x.shape for x in levels]
  assert not coarse[0].any()
  np.testing.assert_array_equal(coarse[2], resample.up(levels[1]))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_patches_are_ordered_y_x_channel_and_come_back(array):
  x = array(VIDEO)
  tokens = resample.patchify(x, 2)
  assert tokens.shape == (2, 3 * 4 * 6, 16)
  # the token of frame 1, patch row 2, patch column 5
  token = tokens[1, 1 * 24 + 2 * 6 + 5]
  np.testing.assert_array_equal(token, VIDEO[1, 1, 4:6, 10:12].reshape(-1))
  np.testing.assert_array_equal(resample.unpatchify(tokens, 3, 4, 6, 2), VIDEO)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_pool_holds_the_levels_coarse_to_full(array):
  levels = resample.pyramid(array(VIDEO), 3)
  pool = resample.token_pool(levels, 1)
  sizes = [3 * 2 * 3, 3 * 4 * 6, 3 * 8 * 12]
  assert pool.shape == (2, sum(sizes), 4)
  parts = np.split(np.asarray(pool), np.cumsum(sizes)[:-1], axis=1)
  for part, level in zip(parts, levels, strict=True):
    np.testing.assert_array_equal(part, resample.patchify(level, 1))


def test_sizes_that_do_not_fit_are_errors():
  with pytest.raises(ValueError, match="5 x 4 cannot be halved"):
    resample.down(np.zeros((5, 4, 1)))
  with pytest.raises(ValueError, match="3 x 5 cannot be halved"):
    resample.pyramid(np.zeros((12, 20, 1)), 4)
  with pytest.raises(ValueError, match="patches of 2"):
    resample.patchify(np.zeros((1, 3, 4, 1)), 2)
  with pytest.raises(ValueError, match="bicubic"):
    resample.up(VIDEO, "bicubic")
