"""Mean and covariance on both sides of the jump between stages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.flow import renoise, resample, schedule

GAMMAS = [0.0, 0.1, 0.25, 1 / 3]


def symmetric_factor(gamma):
  """The matrix that `block_noise` multiplies a block by, in float64 terms."""
  unit = jnp.eye(4).reshape(4, 2, 2, 1)  # four blocks, one unit vector each
  return np.asarray(renoise.block_noise(unit, gamma)).reshape(4, 4).T


@pytest.mark.parametrize("gamma", GAMMAS)
def test_factor_squares_to_the_covariance(gamma):
  factor = symmetric_factor(gamma)
  covariance = np.full((4, 4), -gamma) + (1 + gamma) * np.eye(4)
  # float32 factor
  np.testing.assert_allclose(factor @ factor.T, covariance, atol=3e-7)
  np.testing.assert_allclose(
    renoise.block_covariance(gamma), covariance, atol=1e-7
  )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("stage", [1, 2])
def test_jump_meets_the_next_start_exactly(gamma, stage):
  """Eq. 14, in float64."""
  plan = schedule.make_schedule(gamma=gamma)
  rescale, weight = renoise.rescale_and_weight(
    plan.original_start[stage], gamma
  )
  e = 1 - plan.end_sigma[stage - 1]
  s = 1 - plan.start_sigma[stage]
  np.testing.assert_allclose(rescale * e, s, rtol=0, atol=1e-15)  # the mean
  ones, eye = np.ones((4, 4)), np.eye(4)
  noise = (1 + gamma) * eye - gamma * ones
  np.testing.assert_allclose(
    rescale**2 * (1 - e) ** 2 * ones + weight**2 * noise,
    (1 - s) ** 2 * eye,
    rtol=0,
    atol=1e-15,
  )


def test_equation_15_holds_at_the_papers_choice():
  plan = schedule.make_schedule(gamma=1 / 3)
  for stage in (1, 2):
    e = 1 - plan.end_sigma[stage - 1]
    s = 1 - plan.start_sigma[stage]
    _, weight = renoise.rescale_and_weight(plan.original_start[stage], 1 / 3)
    np.testing.assert_allclose(e, 2 * s / (1 + s), rtol=1e-14)
    np.testing.assert_allclose(weight, math.sqrt(3) * (1 - s) / 2, rtol=1e-14)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_jump_meets_the_next_start_by_monte_carlo(gamma):
  """The real functions, from samples of a stage's end to its next start."""
  plan, stage, samples = schedule.make_schedule(gamma=gamma), 1, 40_000
  clean = np.array([[0.7, -1.3]], np.float32)[..., None]  # Down(x1), [1, 2, 1]
  keys = jax.random.split(jax.random.key(0))
  end = plan.end_sigma[0] * jax.random.normal(keys[0], (samples, 1, 2, 1))
  end = end + (1 - plan.end_sigma[0]) * clean
  eps = jax.random.normal(keys[1], (samples, 2, 4, 1))
  x = renoise.stage_jump(
    end, plan, stage, renoise.block_noise(eps, gamma)
  ).reshape(samples, 8)
  start = plan.start_sigma[stage]
  mean = (1 - start) * resample.up(clean).reshape(8)
  # 5 standard errors of a mean and of a covariance
  error = 5 * start / math.sqrt(samples)
  np.testing.assert_allclose(x.mean(0), mean, atol=error)
  np.testing.assert_allclose(
    np.cov(x.T), start**2 * np.eye(8), atol=error * start * math.sqrt(2)
  )


def test_gamma_zero_drops_the_latent_for_fresh_noise():
  plan = schedule.make_schedule(gamma=0.0)
  noise = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
  np.testing.assert_array_equal(renoise.block_noise(noise, 0.0), noise)
  x = renoise.stage_jump(jnp.ones((1, 2, 2, 2)), plan, 2, noise)
  np.testing.assert_array_equal(x, noise)


def test_blocks_sum_to_zero_at_the_singular_end():
  eps = jax.random.normal(jax.random.key(0), (3, 8, 12, 4))
  sums = 4 * resample.down(renoise.block_noise(eps, 1 / 3))
  np.testing.assert_allclose(sums, 0, atol=2e-6)  # float32 sums of 4


def test_jump_doubles_the_sides_and_knows_both_ways_up():
  plan = schedule.make_schedule()
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 4))
  noise = jnp.zeros((2, 3, 8, 12, 4))
  rescale, _ = renoise.rescale_and_weight(plan.original_start[1], 1 / 3)
  for method in ("nearest", "bilinear"):
    y = renoise.stage_jump(x, plan, 1, noise, method)
    np.testing.assert_allclose(y, rescale * resample.up(x, method), rtol=1e-6)
