"""Which kernels a program holds, lowered for hardware that is not here."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from pyramid_jax.attention import attend
from pyramid_jax.models.pure import REMAT

CHIPS = {"tpu": "TPU v5 lite", "gpu": "NVIDIA H100 80GB HBM3", "cpu": "cpu"}
FORWARD = {"tpu": "splash_mha_fwd", "gpu": "range_attention_forward"}
BACKWARD = {
  "tpu": ("splash_mha_dq", "splash_mha_dkv"),
  "gpu": ("range_attention_grad_query", "range_attention_grad_key"),
}
SHAPE = (2, 300, 4, 64)


def layers(x, remat="none", how="auto"):
  """A scan of layers that attend and do something after it."""
  start = jnp.zeros(x.shape[:2], jnp.int32)

  def layer(x, weight):
    q = jnp.sin(x * weight)
    return jnp.cos(attend.attend(q, q, q, start, start + 300, how)), None

  if remat != "none":
    layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
  return jax.lax.scan(layer, x, jnp.ones((3, 1), x.dtype))[0].sum()


def split_layer(x, heads):
  """A layer whose tokens lie on the devices of the mesh."""
  q = jnp.sin(x)[:, :, :heads]
  text, latent = ((part,) * 3 for part in (q[:, :44], q[:, 44:]))
  order = jnp.broadcast_to(jnp.arange(300), (2, 300))
  out = attend.attend_joint(
    text, latent, order, order, 0 * order, 0 * order + 300,
    batch_axes=("data",), token_axis="sequence",
  )  # fmt: skip
  return sum(jnp.cos(x).sum() for x in out)


def calls(f, platform, mesh=(1, 1)):
  """How often each kernel is called in the program, by name."""
  x = jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16)
  devices = AbstractMesh(
    mesh,
    ("data", "sequence"),
    axis_types=(AxisType.Auto,) * 2,
    abstract_device=AbstractDevice(CHIPS[platform], None, platform),
  )
  with jax.sharding.use_abstract_mesh(devices):
    traced = jax.jit(f).trace(x)
    lowering = "cuda" if platform == "gpu" else platform
    program = traced.lower(lowering_platforms=(lowering,))
  found = re.findall(
    r'kernel_name = "(\w+?)(?:_no_residuals|_residuals)?"|name = "(range_\w+)"',
    program.as_text(),
  )
  return sorted(a or b for a, b in found)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("remat", ["matmuls", "attention", "layer"])
def test_remat_that_keeps_attention_runs_the_forward_kernel_once(
  remat, platform
):
  found = calls(jax.grad(functools.partial(layers, remat=remat)), platform)
  forward = 2 if remat == "layer" else 1
  rows = SHAPE[0] if platform == "tpu" else 1  # splash takes a row at a time
  for name in BACKWARD[platform]:
    assert found.count(name) == rows
  assert found.count(FORWARD[platform]) == forward * rows
  assert len(found) == (forward + 2) * rows


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("heads", [4, 3], ids=["by_heads", "by_queries"])
def test_tokens_split_over_devices_meet_in_the_kernels(heads, platform):
  layer = functools.partial(split_layer, heads=heads)
  found = calls(jax.grad(layer), platform, mesh=(2, 4))
  each = 1 if heads == 4 else 2  # text and latent queries apart
  names = [FORWARD[platform], *BACKWARD[platform]]
  assert found == sorted(names * each)


def test_elsewhere_no_kernel_runs():
  assert not calls(jax.grad(layers), "cpu")
