"""A whole transformer whose tokens lie on several devices."""

import jax
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import MeshConfig
from pyramid_jax.verify.dit import pack
from tests.models.test_dit import small

KINDS = {
  "mmdit": dict(),
  "flux": dict(
    kind="flux", layers=1, single_layers=1, head_dim=16, rotary_dims=(4, 6, 6)
  ),
}
SIZE = (33, 9, 3)  # latent and text tokens that neither 2 nor 4 divide


@pytest.fixture(scope="module", params=KINDS)
def one_device(request):
  model, params, parts = small(
    **{"heads": 4, "layers": 2, **KINDS[request.param]}
  )
  rows, x = pack([parts, parts[:1]], SIZE)

  def loss(params, x, rows):
    velocity = model.apply(params, x, rows, rows["timestep"])
    return (velocity**2).sum(), velocity

  run = jax.value_and_grad(loss, has_aux=True)
  args = params, x, {k: np.asarray(v) for k, v in rows.items()}
  return model, run, args, jax.device_get(jax.jit(run)(*args))


@pytest.mark.parametrize(
  "shape", [(2, 1, 1, 2), (1, 1, 1, 4), (1, 1, 2, 4), (2, 1, 2, 2)]
)
def test_velocities_and_gradients_are_those_of_one_device(one_device, shape):
  model, run, (params, *args), expected = one_device
  devices = jax.devices()[: int(np.prod(shape))]
  mesh = sharding.make_mesh(MeshConfig(*shape), devices)
  with jax.set_mesh(mesh):
    places = sharding.tree_shardings(mesh, model.shapes, model.axes)
    params = jax.device_put(params, places)
    args = jax.device_put(tuple(args), sharding.sharding(mesh, "batch"))
    actual = jax.device_get(jax.jit(run)(params, *args))

  def close(path, a, b):
    # the same float32 sums in another order
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)
    assert error < 2e-5, f"{jax.tree_util.keystr(path)}: {error}"

  jax.tree_util.tree_map_with_path(close, actual, expected)
