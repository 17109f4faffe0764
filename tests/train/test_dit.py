"""The transformer's step: the released loss, any mesh, any microbatches."""

import dataclasses

import jax
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import ConfigError, MeshConfig
from pyramid_jax.train import dit
from pyramid_jax.train.dit_task import make_task
from tests.data import random_store
from tests.train import small_run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  path = tmp_path_factory.mktemp("latents") / "store"
  random_store.write(path, 40)
  return path


def wave(shape):
  """Small values that differ from place to place."""
  return np.float32(0.05) * np.cos(
    np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  )


def two_steps(config, devices=None, rows_of=None):
  """Losses and weights of two steps on the config's mesh."""
  mesh = sharding.make_mesh(config.mesh, devices)
  task = make_task(config, mesh)
  with jax.set_mesh(mesh):
    state = task.program.create(mesh, config.seed)
    # zeroed gates would hide attention and text from the comparison
    params = jax.tree.map(
      lambda x: jax.device_put(np.asarray(x) + wave(x.shape), x.sharding),
      state.params,
    )
    state = state.replace(params=params)
    step = jax.jit(task.program.step)
    batches, losses = task.batches(0), []
    for _ in range(2):
      rows = sharding.place_batch(mesh, next(batches), config.latents.rows)
      state, metrics = step(state, rows, jax.random.key(config.seed))
      losses.append(jax.device_get(metrics))
  return losses, jax.device_get(state.params)


def assert_same_run(a, b):
  # Float32 sums in another order; Adam's first steps divide by |gradient|, so
  # weights whose gradient is rounding noise may move apart by the step size:
  # the second loss, which has seen the updated weights, is what must agree.
  for x, y in zip(a[0], b[0], strict=True):
    for key in ("loss", "stage_loss", "grad_norm"):
      np.testing.assert_allclose(x[key], y[key], rtol=2e-4, err_msg=key)
    np.testing.assert_array_equal(x["stage_segments"], y["stage_segments"])


@pytest.fixture(scope="module")
def one_device(store):
  config = small_run.config(store)
  config = small_run.dataclasses.replace(config, mesh=MeshConfig())
  return two_steps(config, jax.devices()[:1])


def test_a_mesh_gives_the_loss_of_one_device(store, one_device):
  config = small_run.config(store)
  config = small_run.dataclasses.replace(config, mesh=MeshConfig(2, 2, 2))
  assert_same_run(two_steps(config), one_device)


def test_microbatches_give_the_step_of_one_batch(store, one_device):
  config = small_run.config(store, train__microbatches=4)
  config = small_run.dataclasses.replace(config, mesh=MeshConfig(2, 1, 1, 1))
  assert_same_run(two_steps(config, jax.devices()[:2]), one_device)


def test_microbatches_that_the_mesh_does_not_divide_are_told(store):
  config = small_run.config(store, train__microbatches=4)
  with pytest.raises(
    ConfigError,
    match=r"latents\.rows 8 is not a multiple of config\.train\.microbatches 4 "
    r"x data x fsdp 4 = 16: make it one, for example 16,",
  ):
    make_task(config, sharding.make_mesh(config.mesh))


def test_a_non_finite_loss_changes_no_weight_and_is_counted(store):
  config = small_run.config(store)
  mesh = sharding.make_mesh(config.mesh)
  task = make_task(config, mesh)
  with jax.set_mesh(mesh):
    state = task.program.create(mesh, 0)
    rows = dict(next(task.batches(0)))
    rows["clean"] = np.full_like(rows["clean"], np.nan)
    rows = sharding.place_batch(mesh, rows, config.latents.rows)
    after, _ = jax.jit(task.program.step)(state, rows, jax.random.key(0))
  assert (int(after.step), int(after.skipped)) == (1, 1)
  assert int(after.last_skipped) == 0
  for a, b in ((state.params, after.params), (state.opt, after.opt)):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_rows_too_long_for_a_tpu_are_told_before_anything_runs():
  config = small_run.config("none")
  data = dataclasses.replace(
    config.latents, latent_tokens=32_000, text_tokens=769
  )
  long = dataclasses.replace(config, latents=data)
  dit.check_row(long, "gpu")
  dit.check_row(config, "tpu")
  with pytest.raises(ConfigError, match="a row of 32769 tokens, .* the 32768 "):
    dit.check_row(long, "tpu")
  # 31,999 and 769 tokens are 32,000 and 770 once two devices share each
  fits = dataclasses.replace(data, latent_tokens=31_999)
  fits = dataclasses.replace(config, latents=fits)
  dit.check_row(fits, "tpu")
  with pytest.raises(ConfigError, match="a row of 32770 tokens"):
    dit.check_row(fits, "tpu", parts=2)
