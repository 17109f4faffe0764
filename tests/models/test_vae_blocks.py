"""Single blocks of the causal VAE against the released code's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.test_vae import RELEASED, last, model, weights
from tests.reference import load, max_error

TOLERANCE = 2e-6  # one block in float32: only the order of summation differs


def in_chunks(sizes):
  """Runs a module on chunks of these sizes."""

  def run(module, x, cache):
    parts = []
    for chunk in jnp.split(x, np.cumsum(sizes)[:-1], 1):
      y, cache = module(chunk, cache)
      parts.append(y)
    return jnp.concatenate(parts, 1), cache

  return run


def whole(module, x, cache):
  return module(x, cache)


def goes_on(module, x, cache):
  """As a later chunk, after frames of zeros."""
  del cache
  return module(x, jnp.zeros((x.shape[0], 2, *x.shape[2:])))


DOWN = ("encoder", "levels", 1)
UP = ("decoder", "levels", 1)
MIDDLE = ("encoder", "middle")
# output: module, input, its frames (None: all), how
CASES = {
  "resnet12": ((*DOWN, "blocks", 1), "h12", None, whole),
  "resnet8to12": ((*DOWN, "blocks", 0), "h8", None, whole),
  "spatial_down12": ((*DOWN, "resample", 0), "h12", None, whole),
  "temporal_down12_T5": ((*DOWN, "resample", 1), "h12", 5, whole),
  "temporal_down12_T4": ((*DOWN, "resample", 1), "h12", 4, whole),
  "temporal_down12_T1": ((*DOWN, "resample", 1), "h12", 1, whole),
  "tdown_whole_T7": ((*DOWN, "resample", 1), "h12_T7", None, whole),
  "tdown_chunked_T7": (
    (*DOWN, "resample", 1), "h12_T7", None, in_chunks((3, 2, 2)),
  ),
  "conv_whole": ((*DOWN, "blocks", 1, "first", "conv"), "h12_T6", None, whole),
  "conv_chunked": (
    (*DOWN, "blocks", 1, "first", "conv"), "h12_T6", None, in_chunks((3, 2, 1)),
  ),
  "downblock1": (DOWN, "h8", None, whole),
  "spatial_up16": ((*UP, "resample", 0), "h16", None, whole),
  "temporal_up16_init": ((*UP, "resample", 1), "h16", None, whole),
  "temporal_up16_noinit": ((*UP, "resample", 1), "h16", None, goes_on),
  "temporal_up16_T1_init": ((*UP, "resample", 1), "h16", 1, whole),
  "mid_attn16": ((*MIDDLE, "blocks", 1), "h16", 1, whole),
  "mid_block": (MIDDLE, "h16", None, whole),
}  # fmt: skip


def module(path):
  params = jax.tree.map(jnp.asarray, weights())
  found = nnx.merge(model(RELEASED).graphdef, params)
  for step in path:
    found = found[step] if isinstance(step, int) else getattr(found, step)
  return found


@pytest.mark.parametrize("output", CASES)
def test_a_block_gives_the_released_numbers(output):
  path, name, frames, how = CASES[output]
  g = load("vae_blocks")
  x = jnp.asarray(last(g[f"in/{name}"]))[:, :frames]
  y = how(module(path), x, None)[0]
  desired = last(g[f"out/{output}"])
  assert np.abs(desired).max() > 0.1  # a reference of zeros would prove nothing
  y = y.reshape(desired.shape)  # one frame of attention was stored without T
  assert max_error(y, desired) < TOLERANCE


def test_normalization_gives_the_released_numbers():
  g = load("vae_blocks")
  norm = module((*DOWN, "blocks", 1, "first", "norm"))
  y = norm(jnp.asarray(last(g["in/h12"])))
  assert max_error(y, last(g["out/groupnorm12"])) < TOLERANCE


def test_every_stored_block_is_compared():
  outputs = load("vae_blocks").under("out/").keys()
  assert outputs == CASES.keys() | {"groupnorm12"}
