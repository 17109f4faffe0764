"""What every implementation of range attention promises, tested once.

A subclass names the kernel. All tests of one share a few compiled programs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.attention import attend, gpu, tpu
from pyramid_jax.attention.tiles import GPUTile, GPUTiles, TPUTiles
from tests.attention import packings

SMALL_TPU = TPUTiles(query=128, key=256, compute=128)
SMALL_GPU = GPUTiles(
  GPUTile(query=64, key=32, warps=4, stages=1),
  GPUTile(query=32, key=64, warps=4, stages=1),
  GPUTile(query=32, key=64, warps=4, stages=1),
)


def interpreted(module, tiles) -> attend.Kernel:
  """A kernel of ours as it runs where its hardware is not."""
  return attend.Kernel(
    *(
      functools.partial(f, tiles=tiles, interpret=True)
      for f in (module.forward, module.backward)
    )
  )


TPU = interpreted(tpu, SMALL_TPU)
GPU = interpreted(gpu, SMALL_GPU)


@functools.partial(jax.jit, static_argnums=0)
def run(kernel, q, k, v, start, end, grad):
  """The result and the gradients of q, k, v."""
  f = lambda q, k, v: attend.attend(q, k, v, start, end, kernel)
  out, pull = jax.vjp(f, q, k, v)
  return out, *pull(grad)


def compare(kernel, q, k, v, start, end, seed=0, atol=4e-6):
  """With the definition; returns what the kernel gave."""
  grad = np.random.default_rng(seed).normal(size=q.shape).astype(np.float32)
  grad = np.asarray(jnp.asarray(grad, q.dtype))
  mask = packings.pairs(start, end, k.shape[1])
  actual = run(kernel, q, k, v, start, end, grad)
  expected = (
    packings.dense(q, k, v, mask),
    *packings.dense_gradients(q, k, v, mask, np.asarray(grad, np.float64)),
  )
  for name, a, b in zip(("out", "q", "k", "v"), actual, expected, strict=True):
    assert a.dtype == q.dtype
    a = np.asarray(a, np.float64)
    np.testing.assert_allclose(a, b, atol=atol, err_msg=name)
  return actual


class RangeAttention:
  """Tokens: more than one block each way, no multiple of a block."""

  kernel: attend.Kernel
  B, J = 2, 300

  def rows(self, seed):
    return packings.rows(seed, self.B, self.J, N=2)

  @pytest.mark.parametrize("causal", [True, False])
  @pytest.mark.parametrize("seed", range(3))
  def test_a_packed_row_is_dense_softmax_forward_and_backward(
    self, seed, causal
  ):
    segment, frame, *qkv = self.rows(seed)
    start, end = packings.key_ranges(segment, frame, causal)
    # float32 sums of up to 300 terms of size 1, against float64
    out, dq, dk, dv = compare(self.kernel, *qkv, start, end, seed)
    for x in (out, dq, dk, dv):  # padding: neither sees nor is seen
      np.testing.assert_array_equal(np.asarray(x)[segment == 0], 0)

  def test_queries_that_see_nothing_may_stand_anywhere(self):
    segment, frame, *qkv = self.rows(0)
    start, end = packings.key_ranges(segment, frame)
    blind = np.random.default_rng(0).random(start.shape) < 0.3
    blind[0, 100:250] = True  # whole blocks of them
    end = np.where(blind, start, end)
    out, dq, *_ = compare(self.kernel, *qkv, start, end)
    for x in (out, dq):
      np.testing.assert_array_equal(np.asarray(x)[blind], 0)

  def test_a_row_of_padding_alone_gives_zeros(self):
    _, _, *qkv = self.rows(0)
    none = np.zeros((self.B, self.J), np.int32)
    for x in compare(self.kernel, *qkv, none, none):
      np.testing.assert_array_equal(x, 0)

  def test_bfloat16_differs_by_its_rounding_only(self):
    segment, frame, *qkv = self.rows(1)
    start, end = packings.key_ranges(segment, frame)
    half = [jnp.asarray(a, jnp.bfloat16) for a in qkv]
    # 8 bits of weights, values and results of size up to 4
    compare(self.kernel, *half, start, end, atol=0.06)


class Skipping(RangeAttention):
  """Of kernels that pass over blocks.

  `query_block` and `key_block` are the largest of theirs.
  """

  query_block: int
  key_block: int

  def test_a_block_without_a_pair_is_never_read(self):
    _, _, q, k, v = self.rows(0)
    start, end = np.zeros((2, self.B, self.J), np.int32)
    alive = slice(128, 160)  # the only queries, of one block
    start[0, alive], end[0, alive] = 130, 200
    start[1, alive], end[1, alive] = 260, 290
    read = packings.pairs(start, end, self.J).any(1)
    q, k, v = (
      np.where(near(x, block)[..., None, None], a, np.nan)
      for a, x, block in (
        (q, end > start, self.query_block),
        (k, read, self.key_block),
        (v, read, self.key_block),
      )
    )
    assert all(np.isnan(x).any((1, 2, 3)).all() for x in (q, k, v))
    out, dq, dk, dv = run(self.kernel, q, k, v, start, end, np.ones_like(q))
    for x, part in ((out, end > start), (dq, end > start), (dk, read),
                    (dv, read)):  # fmt: skip
      x = np.asarray(x)
      assert np.isfinite(x).all() and x[part].any()
      np.testing.assert_array_equal(x[~part], 0)


def near(x, block):
  """Spreads True to the whole of its block."""
  padded = np.pad(x, ((0, 0), (0, -x.shape[1] % block)))
  some = padded.reshape(len(x), -1, block).any(-1)
  return np.repeat(some, block, 1)[:, : x.shape[1]]
