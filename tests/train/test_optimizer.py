"""AdamW and Muon, warm-up and decay, what they leave alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyramid_jax.config import ConfigError, OptimizerConfig
from pyramid_jax.train.optimizer import (
  is_kernel,
  learning_rate,
  make_optimizer,
  matrices,
)

CONFIG = OptimizerConfig(learning_rate=0.1, warmup=4)


def rates(config, steps, at):
  rate = learning_rate(config, (steps, 1.0))
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


def test_every_phase_has_the_whole_schedule_at_its_own_rate():
  cosine = dataclasses.replace(CONFIG, schedule="cosine")
  rate = learning_rate(cosine, (104, 1.0), (14, 0.5))
  got = [float(rate(n)) for n in (4, 54, 104, 106, 108, 113, 118)]
  np.testing.assert_allclose(
    got, [0.1, 0.05, 0, 0.025, 0.05, 0.025, 0], atol=1e-8
  )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"warmup": 11}, "warmup 11 is too long .* 10 steps .*; at most 10"),
    ({"warmup": 10, "schedule": "cosine"}, "warmup 10 .*; at most 9"),
    ({"schedule": "linear"}, "schedule is 'linear'; it must be 'constant' or"),
    ({"method": "sgd"}, "method is 'sgd'; it must be 'adamw' or 'muon'"),
  ],
)
def test_a_schedule_that_cannot_be_is_refused(change, message):
  with pytest.raises(ConfigError, match=message):
    make_optimizer(dataclasses.replace(CONFIG, **change), {}, (10, 1.0))


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
  tx = make_optimizer(config, {}, (10, 1.0))
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
  tx = make_optimizer(config, {}, (10, 1.0))
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


AXES = {
  "layers": {"kernel": ("layers", "embed", "mlp")},
  "conv": {"kernel": ("kernel", "kernel", "channels_in", "channels")},
  "norm": {"scale": ("channels",)},
  "embedding": ("vocabulary", None),
}


def test_kernels_are_matrices_from_all_that_goes_in_to_what_comes_out():
  numbers = matrices(AXES)
  assert numbers["layers"]["kernel"] == ([1], [2])
  assert numbers["conv"]["kernel"] == ([0, 1, 2], [3])
  assert numbers["norm"]["scale"] is None and numbers["embedding"] is None


def test_muon_makes_every_kernel_of_a_stack_orthogonal_at_the_rate_of_adamw():
  rng = np.random.default_rng(0)
  shapes = {
    "layers": {"kernel": (3, 12, 8)},
    "conv": {"kernel": (2, 2, 5, 6)},
    "norm": {"scale": (6,)},
    "embedding": (3, 2),
  }
  is_shape = lambda x: isinstance(x, tuple)
  draw = lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  params, grads = (
    jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(2)
  )
  config = dataclasses.replace(
    CONFIG, method="muon", warmup=0, weight_decay=0.0, clip=1e9
  )
  tx = make_optimizer(config, AXES, (10, 1.0))
  updates, _ = tx.update(grads, tx.init(params), params)
  conv = updates["conv"]["kernel"].reshape(20, 6)
  for update, longest in (
    *((u, 12) for u in updates["layers"]["kernel"]),
    (conv, 20),
  ):
    values = np.linalg.svd(update, compute_uv=False)
    # 5 iterations leave singular values within 0.5 and 1.5 (arXiv:2502.16982)
    size = 0.1 * 0.2 * np.sqrt(longest)
    assert 0.5 * size < values.min() and values.max() < 1.5 * size
  first = 0.1 * (1 + 0.9 * 0.1 / (1 - 0.9**2))
  for name in ("embedding", "norm"):  # the first step of Nadam
    update, grad = (jax.tree.leaves(t[name])[0] for t in (updates, grads))
    np.testing.assert_allclose(update, -first * np.sign(grad), rtol=1e-4)
  down = jax.tree.map(lambda u, g: float((u * g).sum()), updates, grads)
  assert all(x < 0 for x in jax.tree.leaves(down))
