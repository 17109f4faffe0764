"""The step of an ablation: a stage's ends with a noise each."""

import dataclasses

import jax
import numpy as np

from pyramid_jax.config import MeshConfig
from tests.data import random_store
from tests.train import small_run
from tests.train.test_dit import two_steps


def test_uncoupled_ends_change_every_stage_but_the_last(tmp_path):
  """The last stage ends without noise, whichever noise that would be."""
  random_store.write(tmp_path / "store", 40)
  config = dataclasses.replace(
    small_run.config(tmp_path / "store"), mesh=MeshConfig()
  )
  flow = dataclasses.replace(config.flow, coupled=False)
  coupled, apart = (
    two_steps(c, jax.devices()[:1])[0][0]["stage_loss"]
    for c in (config, dataclasses.replace(config, flow=flow))
  )
  # the same sums in a program with one noise more
  np.testing.assert_allclose(apart[-1], coupled[-1], rtol=1e-5)
  assert (np.abs(apart / coupled - 1)[:-1] > 0.01).all()
