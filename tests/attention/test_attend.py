"""The entry points of attention, on one device and on meshes."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.attention import attend, parallel, tpu
from tests.attention import packings, streams


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_range_is_the_whole_mask(seed, causal):
  segment, frame, *_ = packings.rows(seed)
  start, end = packings.key_ranges(segment, frame, causal)
  np.testing.assert_array_equal(
    packings.pairs(start, end, segment.shape[1]),
    packings.dense_mask(segment, frame, causal),
  )


def test_permute_and_its_gradient_are_gathers():
  x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
  order = np.stack([np.random.default_rng(i).permutation(7) for i in range(2)])
  inverse = np.argsort(order, 1)
  y = parallel.permute(x, order, inverse)
  np.testing.assert_array_equal(parallel.permute(y, inverse, order), x)
  f = lambda x: (parallel.permute(x, order, inverse) ** 3).sum()
  np.testing.assert_allclose(jax.grad(f)(jnp.asarray(x)), 3 * x**2, rtol=1e-6)
  assert "scatter" not in str(jax.make_jaxpr(jax.grad(f))(x))


@pytest.mark.parametrize("mesh", [(8, 1, 1, 1), (1, 2, 4, 1), (1, 1, 8, 1)])
def test_streams_on_a_mesh_attend_as_on_one_device(mesh):
  streams.check(mesh)


@pytest.mark.parametrize(
  "mesh, exchange",
  [((2, 1, 1, 4), "all_to_all"), ((1, 1, 2, 4), "all_gather")],
  ids=["by_heads", "by_queries"],
)
def test_tokens_split_over_devices_attend_as_on_one(mesh, exchange):
  program = streams.check(mesh)
  assert exchange in program
  assert (
    "all_gather" if exchange == "all_to_all" else "all_to_all"
  ) not in program


def test_a_row_longer_than_a_range_can_name_is_refused_on_tpu_alone():
  with pytest.raises(ValueError, match="32769 tokens.* 32768 .*latent_tokens"):
    tpu.check_length(tpu.LIMIT + 1)
  x = jax.ShapeDtypeStruct((1, tpu.LIMIT + 1, 1, 8), jnp.float32)
  end = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)
  call = lambda how: jax.eval_shape(
    functools.partial(attend.attend, implementation=how), x, x, x, end, end
  )
  assert call("auto").shape == x.shape  # on this machine
  with pytest.raises(ValueError, match="32768"):
    call("tpu")


def test_an_unknown_implementation_is_refused():
  x, end = jnp.zeros((1, 4, 1, 8)), jnp.zeros((1, 4), jnp.int32)
  with pytest.raises(ValueError, match="'cudnn' is not auto, dense, xla, tpu"):
    attend.attend(x, x, x, end, end, "cudnn")


def test_tokens_that_an_axis_does_not_divide_are_refused():
  row = parallel.Row(*[jnp.zeros((1, 42), jnp.int32)] * 4)
  with pytest.raises(ValueError, match="30 latent .*'sequence' of 4 .* 32"):
    parallel.lay_out(row, 12, 30, "sequence", 4)


TRACED = """
import sys
import jax
from pyramid_jax.attention import attend
pallas = lambda: {name for name in sys.modules if "pallas" in name}
before = pallas()
x = jax.ShapeDtypeStruct((1, 256, 1, 64), "float32")
end = jax.ShapeDtypeStruct((1, 256), "int32")
loss = lambda *qkv_range: attend.attend(*qkv_range).sum()
jax.jit(jax.grad(loss)).lower(x, x, x, end, end)
print(before, pallas() - before)
assert before and pallas() == before
"""


def test_tracing_attention_imports_none_of_pallas():
  """It adds to what JAX compares: the second call would compile again."""
  done = subprocess.run(
    [sys.executable, "-c", TRACED], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout + done.stderr
