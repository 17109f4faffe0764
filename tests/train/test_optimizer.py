"""AdamW, its warm-up and decay, what it leaves alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyramid_jax.config import ConfigError, OptimizerConfig
from pyramid_jax.train.optimizer import (
  is_kernel,
  learning_rate,
  make_optimizer,
)

CONFIG = OptimizerConfig(learning_rate=0.1, warmup=4)


def rates(config, steps, at):
  rate = learning_rate(config, steps)
  return [float(rate(step)) for step in at]


def test_the_warm_up_is_linear_from_zero_then_the_rate_stays():
  np.testing.assert_allclose(
    rates(CONFIG, 100, [0, 1, 2, 4, 5, 99]),
    [0, 0.025, 0.05, 0.1, 0.1, 0.1],
    rtol=1e-6,
  )


def test_a_cosine_ends_at_zero():
  cosine = dataclasses.replace(CONFIG, schedule="cosine")
  np.testing.assert_allclose(
    rates(cosine, 104, [0, 4, 54, 104]), [0, 0.1, 0.05, 0], atol=1e-8
  )


def test_without_warm_up_the_first_step_has_the_whole_rate():
  for schedule in ("constant", "cosine"):
    config = dataclasses.replace(CONFIG, schedule=schedule, warmup=0)
    np.testing.assert_allclose(rates(config, 10, [0]), [0.1])


@pytest.mark.parametrize(
  "change, message",
  [
    ({"warmup": 11}, "warmup 11 is too long .* 10 steps .*; at most 10"),
    ({"warmup": 10, "schedule": "cosine"}, "warmup 10 .*; at most 9"),
    ({"schedule": "linear"}, "schedule is 'linear'; it must be 'constant' or"),
  ],
)
def test_a_schedule_that_cannot_be_is_refused(change, message):
  with pytest.raises(ConfigError, match=message):
    make_optimizer(dataclasses.replace(CONFIG, **change), 10)


PARAMS = {
  "layer": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)},
  "norm": {"scale": jnp.full(2, 3.0)},
  "embedding": jnp.full((3, 2), 3.0),
}


def test_only_kernels_decay():
  assert is_kernel(PARAMS) == {
    "layer": {"kernel": True, "bias": False},
    "norm": {"scale": False},
    "embedding": False,
  }
  config = dataclasses.replace(CONFIG, warmup=0, weight_decay=0.5)
  tx = make_optimizer(config, 10)
  zeros = {"layer": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}
  params = {"layer": PARAMS["layer"]}
  updates, _ = tx.update(zeros, tx.init(params), params)
  # -rate x decay x value
  np.testing.assert_allclose(updates["layer"]["kernel"], -0.1 * 0.5 * 3)
  np.testing.assert_array_equal(updates["layer"]["bias"], 0)


def test_steps_are_those_of_adamw_after_clipping_the_global_norm():
  config = OptimizerConfig(
    learning_rate=0.1, warmup=0, beta1=0.8, beta2=0.9, epsilon=1e-3,
    weight_decay=0.01, clip=1.0,
  )  # fmt: skip
  tx = make_optimizer(config, 10)
  params = {"kernel": jnp.array([1.0, -2.0, 0.5])}
  state = tx.init(params)
  gradients = [np.array([3.0, 0.0, -4.0]), np.array([0.1, 0.2, 0.3])]
  x, m, v = np.array([1.0, -2.0, 0.5]), 0, 0
  for n, g in enumerate(gradients, 1):
    updates, state = tx.update(
      {"kernel": jnp.asarray(g, jnp.float32)}, state, params
    )
    params = optax.apply_updates(params, updates)
    g = g / max(np.linalg.norm(g), 1)
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
    step = (m / (1 - 0.8**n)) / (np.sqrt(v / (1 - 0.9**n)) + 1e-3)
    x = x - 0.1 * (step + 0.01 * x)
    np.testing.assert_allclose(params["kernel"], x, rtol=1e-5)  # float32
