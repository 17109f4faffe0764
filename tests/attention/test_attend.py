"""Range attention against a dense softmax, and its two-stream entry point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pyramid_jax import sharding
from pyramid_jax.attention import attend, ranges, xla
from pyramid_jax.config import MeshConfig


def packing(rng, J, segments=4, padding=9):
  """Random segments of random frames behind each other, padding last."""
  cuts = rng.choice(np.arange(1, J - padding), segments - 1, replace=False)
  bounds = [0, *sorted(cuts), J - padding]
  segment, frame = np.zeros(J, np.int32), np.zeros(J, np.int32)
  for i, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
    segment[a:b] = i + 1
    frame[a:b] = np.sort(rng.integers(0, 5, b - a))
  return segment, frame


def dense_mask(segment, frame, causal=True):
  """Every pair, one by one, as the words say."""
  same = (segment[:, :, None] == segment[:, None]) & (segment[:, None] > 0)
  return same & (frame[:, :, None] >= frame[:, None]) if causal else same


def dense(q, k, v, mask):
  """Softmax in float64; a query that sees nothing gives zeros."""
  q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
  logits = np.einsum("bqnk,brnk->bnqr", q, k) * q.shape[-1] ** -0.5
  w = np.exp(logits - logits.max(-1, keepdims=True)) * mask[:, None]
  w /= np.maximum(w.sum(-1, keepdims=True), 1e-300)
  return np.einsum("bnqr,brnk->bqnk", w, v)


def rows(seed=0, B=3, J=70):
  rng = np.random.default_rng(seed)
  segment, frame = (
    np.stack(a) for a in zip(*[packing(rng, J) for _ in range(B)], strict=True)
  )
  q, k, v = rng.normal(size=(3, B, J, 4, 8)).astype(np.float32)
  return segment, frame, q, k, v


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_range_is_the_whole_mask(seed, causal):
  segment, frame, *_ = rows(seed)
  start, end = ranges.key_ranges(
    jnp.asarray(segment), jnp.asarray(frame), causal=causal
  )
  place = np.arange(segment.shape[1])
  inside = (place >= start[..., None]) & (place < end[..., None])
  np.testing.assert_array_equal(inside, dense_mask(segment, frame, causal))


@pytest.mark.parametrize("chunk", [16, 70, 512])
def test_chunked_attention_is_dense_softmax(chunk):
  segment, frame, q, k, v = rows()
  start, end = ranges.key_ranges(jnp.asarray(segment), jnp.asarray(frame))
  out = xla.range_attention(q, k, v, start, end, chunk=chunk)
  # float32 sums of 70 terms against float64
  np.testing.assert_allclose(
    out, dense(q, k, v, dense_mask(segment, frame)), atol=2e-6
  )
  np.testing.assert_array_equal(np.asarray(out)[segment == 0], 0)


def test_gradients_do_not_depend_on_the_chunk_and_are_finite_for_padding():
  segment, frame, q, k, v = rows()
  start, end = ranges.key_ranges(jnp.asarray(segment), jnp.asarray(frame))

  def grads(chunk):
    f = lambda q, k, v: jnp.sin(
      xla.range_attention(q, k, v, start, end, chunk=chunk)
    ).sum()
    return jax.grad(f, (0, 1, 2))(q, k, v)

  for a, b in zip(grads(16), grads(512), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)  # float32 sums of 70 terms
    np.testing.assert_array_equal(np.asarray(a)[segment == 0], 0)


def test_bfloat16_differs_by_its_rounding_only():
  segment, frame, q, k, v = rows()
  start, end = ranges.key_ranges(jnp.asarray(segment), jnp.asarray(frame))
  half = [jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)]
  out = attend.attend(*half, start, end)
  assert out.dtype == jnp.bfloat16
  exact = dense(*half, dense_mask(segment, frame))
  np.testing.assert_allclose(np.asarray(out, np.float64), exact, atol=0.03)


def test_permute_and_its_gradient_are_gathers():
  x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
  order = np.stack([np.random.default_rng(i).permutation(7) for i in range(2)])
  inverse = np.argsort(order, 1)
  y = attend.permute(x, order, inverse)
  np.testing.assert_array_equal(attend.permute(y, inverse, order), x)
  f = lambda x: (attend.permute(x, order, inverse) ** 3).sum()
  np.testing.assert_allclose(jax.grad(f)(jnp.asarray(x)), 3 * x**2, rtol=1e-6)
  assert "scatter" not in str(jax.make_jaxpr(jax.grad(f))(x))


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)])
def test_streams_on_a_mesh_attend_as_on_one_device(mesh):
  data, fsdp, tensor = mesh
  rng = np.random.default_rng(0)
  B, M, L = 8, 12, 30
  segment, frame, q, k, v = rows(1, B, M + L)
  order = np.stack([rng.permutation(M + L) for _ in range(B)])
  inverse = np.argsort(order, 1)
  start, end = ranges.key_ranges(jnp.asarray(segment), jnp.asarray(frame))
  unordered = [np.take_along_axis(a, inverse[..., None, None], 1)
               for a in (q, k, v)]  # fmt: skip
  text, latent = (
    tuple(a[:, s] for a in unordered) for s in (slice(M), slice(M, None))
  )
  expected = dense(q, k, v, dense_mask(segment, frame))
  expected = np.take_along_axis(expected, inverse[..., None, None], 1)

  def run(text, latent):
    return attend.attend_joint(
      text, latent, order, inverse, start, end,
      batch_axes=("data", "fsdp"), head_axes=("tensor",),
    )  # fmt: skip

  with jax.set_mesh(sharding.make_mesh(MeshConfig(data, fsdp, tensor, 1))):
    place = jax.NamedSharding(jax.sharding.get_mesh(), P(("data", "fsdp")))
    out = jax.jit(run)(*jax.device_put((text, latent), place))
  # float32 sums of 42 terms against float64; 4 heads over 8 devices stay whole
  np.testing.assert_allclose(np.concatenate(out, 1), expected, atol=2e-6)
