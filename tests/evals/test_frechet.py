"""The Frechet distance: closed forms, merging, what it warns of and refuses."""

import logging

import numpy as np
import pytest
import scipy.linalg

from pyramid_jax.config import ConfigError
from pyramid_jax.evals.frechet import Moments, frechet_distance, moments

MANY = 10**6  # samples: no warning


def normal(mean, covariance):
  """The moments of a normal distribution."""
  scatter = np.asarray(covariance, float) * (MANY - 1)
  return Moments(MANY, np.asarray(mean, float), scatter)


def rotation(size, seed):
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
  return q


def features(count, size=5, seed=0):
  return np.random.default_rng(seed).normal(3, 2, (count, size))


@pytest.mark.parametrize("seed", [None, 1])
def test_variances_along_common_axes_have_a_closed_form(seed):
  a, b = np.array([1.0, 4.0, 0.0, 9.0]), np.array([4.0, 1.0, 2.0, 9.0])
  axes = np.eye(4) if seed is None else rotation(4, seed)
  first = normal([0, 0, 1, 2], axes * a @ axes.T)
  second = normal([1, 0, 1, 0], axes * b @ axes.T)
  expected = 1 + 4 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
  # float64; a root takes the rounding error of a variance of 0 to 1e-8
  np.testing.assert_allclose(
    frechet_distance(first, second), expected, rtol=1e-6
  )


def test_it_agrees_with_scipy_on_ill_conditioned_covariances():
  q, r = rotation(12, 2), rotation(12, 3)
  a = q * np.logspace(-9, 3, 12) @ q.T
  b = r * np.logspace(-7, 2, 12) @ r.T
  root = scipy.linalg.sqrtm(a @ b)
  expected = np.trace(a) + np.trace(b) - 2 * np.trace(root).real
  found = frechet_distance(normal(np.zeros(12), a), normal(np.zeros(12), b))
  # scipy's root is exact to about the square root of float64's precision
  np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_it_is_symmetric_and_0_between_equal_sets():
  a, b = Moments.of(features(40)), Moments.of(1.5 * features(50, seed=1))
  np.testing.assert_allclose(
    frechet_distance(a, b), frechet_distance(b, a), rtol=1e-10
  )
  assert frechet_distance(a, b) > 1
  assert frechet_distance(a, a) < 1e-10


@pytest.mark.parametrize("cut", [0, 1, 13, 40])
def test_merged_moments_are_those_of_all_samples(cut):
  x = features(40) + 1e6  # squares of which would cancel
  whole, merged = Moments.of(x), Moments.of(x[:cut]) + Moments.of(x[cut:])
  assert merged.count == 40
  np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
  np.testing.assert_allclose(merged.covariance, np.cov(x.T), rtol=1e-8)


def test_a_stream_is_merged():
  x = features(40)
  parts = [([str(i)] * 8, x[i : i + 8]) for i in range(0, 40, 8)]
  np.testing.assert_allclose(moments(parts).covariance, np.cov(x.T), rtol=1e-12)
  with pytest.raises(ConfigError, match="no samples"):
    moments([])


def test_few_samples_give_a_finite_distance_and_a_warning(caplog):
  few, many = Moments.of(features(4)), Moments.of(features(400, seed=1))
  with caplog.at_level(logging.WARNING):
    assert np.isfinite(frechet_distance(few, many))
  assert [r.getMessage() for r in caplog.records] == [
    "4 samples are fewer than needed for 5 features: the distance is biased, "
    "too large; compare it only with one of as many samples"
  ]
  # as it says: on average four are farther from their own distribution
  far = [
    frechet_distance(Moments.of(features(4, seed=s)), many) for s in range(9)
  ]
  near = [
    frechet_distance(Moments.of(features(400, seed=s)), many) for s in range(9)
  ]
  assert np.mean(far) > 5 * np.mean(near)


def test_what_cannot_be_compared_is_told():
  x = features(9)
  x[3, 1], x[5, 0] = np.nan, np.inf
  names = [f"{i}.png" for i in range(9)]
  with pytest.raises(ConfigError, match=r"of 3\.png and 1 more are not finite"):
    Moments.of(x, names)
  with pytest.raises(ConfigError, match="sample 3 "):
    Moments.of(x[:4])
  with pytest.raises(ConfigError, match="1 samples have no covariance"):
    frechet_distance(Moments.of(features(1)), Moments.of(features(9)))
  with pytest.raises(ConfigError, match="5 and 4 features"):
    frechet_distance(Moments.of(features(9)), Moments.of(features(9, 4)))
