"""Other meshes than the default suite's: compiling them takes its time."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import MeshConfig
from pyramid_jax.train.dit_task import make_task
from tests.train import small_run, test_dit, test_loop
from tests.train.test_dit import one_device  # noqa: F401  a fixture
from tests.train.test_loop import store, whole  # noqa: F401  fixtures

# ruff: noqa: F811  pytest hands fixtures over by name


@pytest.mark.parametrize(
  "shape",
  [(8, 1, 1), (1, 2, 4), (2, 1, 1, 4), (1, 2, 2, 2), (1, 1, 2, 4)],
)
def test_a_mesh_gives_the_loss_of_one_device(store, one_device, shape):
  config = small_run.config(store)
  config = dataclasses.replace(config, mesh=MeshConfig(*shape))
  test_dit.assert_same_run(test_dit.two_steps(config), one_device)


def test_a_run_continues_on_another_mesh(whole, store, tmp_path):
  config = small_run.config(store, test_loop.STEPS)
  taken = []

  def kill(n, rows):
    if n == 4:
      raise test_loop.Killed
    taken.append((n, rows))

  with pytest.raises(test_loop.Killed):
    test_loop.train(config, tmp_path, kill)
  one = dataclasses.replace(config, mesh=MeshConfig(8, 1, 1, 1))
  test_loop.train(one, tmp_path, lambda n, rows: taken.append((n, rows)))

  task = make_task(config, sharding.make_mesh(config.mesh))
  expected = list(itertools.islice(task.batches(0), test_loop.STEPS))
  assert [n for n, _ in taken] == [*range(4), *range(3, test_loop.STEPS)]
  for n, rows in taken:  # bit for bit
    jax.tree.map(np.testing.assert_array_equal, rows, expected[n])
  found, losses = (
    list(x.values()) for x in (test_loop.losses(tmp_path), whole[0])
  )
  assert found[:3] == losses[:3]
  print(f"losses differ by {np.abs(np.divide(found, losses) - 1).max():.1e}")
  # float32 sums in another order: 1.4e-7 after five optimizer steps
  np.testing.assert_allclose(found, losses, rtol=1e-6)
