"""Where the arrays of a run lie."""

import dataclasses

import jax
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import DiTConfig, MeshConfig, OptimizerConfig
from pyramid_jax.models.dit import make_dit
from pyramid_jax.train import state
from pyramid_jax.train.optimizer import make_optimizer

MODEL = DiTConfig(
  layers=2, heads=2, head_dim=8, text_dim=8, pooled_dim=8, dtype="float32"
)
CONFIG = OptimizerConfig(warmup=0)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_moments_lie_with_their_parameters(method):
  model = make_dit(MODEL)
  config = dataclasses.replace(CONFIG, method=method)
  tx = make_optimizer(config, model.axes, (10, 1.0))
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  places = state.shardings(model, tx, mesh)
  split = lambda tree: [p for p in jax.tree.leaves(tree) if any(p.spec)]
  kernels = [
    place
    for path, place in jax.tree_util.tree_leaves_with_path(places.params)
    if path[-1].key == "kernel" and any(place.spec)
  ]
  params = split(places.params)
  assert 0 < len(kernels) < len(params)
  # Adam has two moments of a parameter, Muon one of a kernel
  expected = 2 * len(params) - (len(kernels) if method == "muon" else 0)
  assert len(split(places.opt)) == expected
