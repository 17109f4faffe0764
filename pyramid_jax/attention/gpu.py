"""Range attention on NVIDIA GPUs, by Pallas kernels that Triton compiles.

The shape is that of FlashAttention-2 (Dao, 2023): a program holds one block of
a head's queries (for the gradients of k and v, of its keys) and walks over the
blocks of the other side from the first to the last that it meets: in joint
order it meets all of them, see `blocks.span`. A block that all its queries see
whole needs no mask.

Legend: B rows, Q queries, R keys, N heads, K head dim, U blocks of queries,
V blocks of keys. A kernel sees one row and head.

Pallas is imported here: where the first program that is traced imports it, it
adds to JAX's settings, and all that was traced before is compiled again.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pyramid_jax.attention import blocks
from pyramid_jax.attention.tiles import GPUTile, GPUTiles, for_platform

MASKED = -1e30
LOG2E = math.log2(math.e)  # the hardware's exponential is of base 2
LEAST_DIM = 16  # that a matrix product sums over


def forward(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  *,
  tiles: GPUTiles | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """`xla.forward` by a kernel."""
  tile = (tiles or for_platform("gpu")).forward
  Q, K = q_BQNK.shape[1], q_BQNK.shape[3]
  q, start, end = _padded(tile.query, q_BQNK, k_start_BQ, k_end_BQ)
  k, v = _padded(tile.key, k_BRNK, v_BRNK)
  B, _, N, _ = q.shape
  out, logsumexp = _call(
    functools.partial(_forward_kernel, block=tile.key, scale=K**-0.5),
    "range_attention_forward",
    tile,
    tile.query,
    [_walk_keys(start, end, k.shape[1], tile), q, start, end],
    [k, v],
    [q, jax.ShapeDtypeStruct((B, N, q.shape[1]), jnp.float32)],
    interpret,
  )
  return out[:, :Q, :, :K], logsumexp[..., :Q]


def backward(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  out_BQNK: jax.Array,
  logsumexp_BNQ: jax.Array,
  grad_BQNK: jax.Array,
  *,
  tiles: GPUTiles | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`xla.backward` by two kernels: one for q, one for k and v."""
  tiles = tiles or for_platform("gpu")
  Q, R, K = q_BQNK.shape[1], k_BRNK.shape[1], q_BQNK.shape[3]
  delta = blocks.scores_gradient(out_BQNK, grad_BQNK)
  of_query = (
    q_BQNK, k_start_BQ, k_end_BQ, grad_BQNK, logsumexp_BNQ, delta
  )  # fmt: skip

  tile = tiles.grad_query
  k, v = _padded(tile.key, k_BRNK, v_BRNK)
  q, start, end, *rest = _padded(tile.query, *of_query)
  (dq,) = _call(
    functools.partial(_grad_query_kernel, block=tile.key, scale=K**-0.5),
    "range_attention_grad_query",
    tile,
    tile.query,
    [_walk_keys(start, end, k.shape[1], tile), q, start, end, *rest],
    [k, v],
    [q],
    interpret,
  )

  tile = tiles.grad_key
  k, v = _padded(tile.key, k_BRNK, v_BRNK)
  q, start, end, *rest = _padded(tile.query, *of_query)
  dk, dv = _call(
    functools.partial(_grad_key_kernel, block=tile.query, scale=K**-0.5),
    "range_attention_grad_key",
    tile,
    tile.key,
    [_walk_queries(start, end, k.shape[1], tile), k, v],
    [q, start, end, *rest],
    [k, v],
    interpret,
  )
  return dq[:, :Q, :, :K], dk[:, :R, :, :K], dv[:, :R, :, :K]


def _forward_kernel(
  walk, q_ref, start_ref, end_ref, k_ref, v_ref, out_ref, logsumexp_ref,
  *, block, scale,
):  # fmt: skip
  """One block of queries over the blocks of keys in its walk."""
  q, start, end = q_ref[...], start_ref[...], end_ref[...]

  def step(j, carry, masked):
    out, peak, total = carry
    here, place = _block(j, block)
    k, v = k_ref[here, :], v_ref[here, :]
    logits = plgpu.dot(q, k.T) * (scale * LOG2E)
    if masked:
      seen = _seen(place[None, :], start[:, None], end[:, None])
      logits = jnp.where(seen, logits, MASKED)
    new_peak = jnp.maximum(peak, logits.max(1))
    weights = jnp.exp2(logits - new_peak[:, None])
    if masked:
      weights = jnp.where(seen, weights, 0.0)
    shrink = jnp.exp2(peak - new_peak)
    out = out * shrink[:, None] + plgpu.dot(weights.astype(v.dtype), v)
    return out, new_peak, total * shrink + weights.sum(1)

  zeros = jnp.zeros(start.shape, jnp.float32)
  carry = (jnp.zeros(q.shape, jnp.float32), zeros + MASKED, zeros)
  out, peak, total = _walk(walk, step, carry)
  empty = total == 0
  total = jnp.where(empty, 1.0, total)
  out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
  logsumexp = peak / LOG2E + jnp.log(total)
  logsumexp_ref[...] = jnp.where(empty, 0.0, logsumexp)


def _grad_query_kernel(
  walk, q_ref, start_ref, end_ref, grad_ref, logsumexp_ref, delta_ref, k_ref,
  v_ref, dq_ref, *, block, scale,
):  # fmt: skip
  """The gradient of one block of queries."""
  q, grad, delta = q_ref[...], grad_ref[...], delta_ref[...]
  start, end = start_ref[...], end_ref[...]
  logsumexp = logsumexp_ref[...] * LOG2E

  def step(j, dq, masked):
    here, place = _block(j, block)
    k, v = k_ref[here, :], v_ref[here, :]
    logits = plgpu.dot(q, k.T) * (scale * LOG2E)
    weights = jnp.exp2(logits - logsumexp[:, None])
    if masked:
      seen = _seen(place[None, :], start[:, None], end[:, None])
      weights = jnp.where(seen, weights, 0.0)
    dlogits = weights * (plgpu.dot(grad, v.T) - delta[:, None])
    return dq + plgpu.dot(dlogits.astype(k.dtype), k)

  dq = _walk(walk, step, jnp.zeros(q.shape, jnp.float32))
  dq_ref[...] = (dq * scale).astype(dq_ref.dtype)


def _grad_key_kernel(
  walk, k_ref, v_ref, q_ref, start_ref, end_ref, grad_ref, logsumexp_ref,
  delta_ref, dk_ref, dv_ref, *, block, scale,
):  # fmt: skip
  """The gradients of one block of keys and values."""
  k, v = k_ref[...], v_ref[...]
  _, place = _block(pl.program_id(0), k.shape[0])

  def step(i, carry):
    dk, dv = carry
    here, _ = _block(i, block)
    q, grad = q_ref[here, :], grad_ref[here, :]
    logsumexp, delta = logsumexp_ref[here] * LOG2E, delta_ref[here]
    start, end = start_ref[here], end_ref[here]
    logits = plgpu.dot(k, q.T) * (scale * LOG2E)  # keys x queries
    weights = jnp.exp2(logits - logsumexp[None, :])
    seen = _seen(place[:, None], start[None, :], end[None, :])
    weights = jnp.where(seen, weights, 0.0)
    dv += plgpu.dot(weights.astype(grad.dtype), grad)
    dlogits = weights * (plgpu.dot(v, grad.T) - delta[None, :])
    return dk + plgpu.dot(dlogits.astype(q.dtype), q), dv

  zeros = jnp.zeros(k.shape, jnp.float32)
  dk, dv = jax.lax.fori_loop(walk[0], walk[1], step, (zeros, zeros))
  dk_ref[...] = (dk * scale).astype(dk_ref.dtype)
  dv_ref[...] = dv.astype(dv_ref.dtype)


def _walk(walk, step, carry):
  """Over the keys: masked blocks, then those all queries see, then masked."""
  for i, masked in enumerate((True, False, True)):
    carry = jax.lax.fori_loop(
      walk[i], walk[i + 1], functools.partial(step, masked=masked), carry
    )
  return carry


def _block(i, size: int):
  """A block's slice and the places of its tokens."""
  return pl.ds(i * size, size), i * size + jnp.arange(size, dtype=jnp.int32)


def _seen(place, start, end):
  return (place >= start) & (place < end)


def _walk_keys(start_BQ, end_BQ, keys: int, tile: GPUTile) -> jax.Array:
  """Blocks of keys for each of queries: first, seen by all from, to, last.

  [B, 4 U] int32, the last two exclusive.
  """
  meet_BUV = blocks.meet(start_BQ, end_BQ, keys, tile.query, tile.key)
  first, last = blocks.span(meet_BUV, axis=2)
  start, end = (x.reshape(*first.shape, tile.query) for x in (start_BQ, end_BQ))
  whole = jnp.clip(-(-start.max(-1) // tile.key), first, last)
  whole_end = jnp.clip(end.min(-1) // tile.key, whole, last)
  walk = jnp.stack([first, whole, whole_end, last], -1)
  return walk.reshape(len(walk), -1).astype(jnp.int32)


def _walk_queries(start_BQ, end_BQ, keys: int, tile: GPUTile) -> jax.Array:
  """Blocks of queries for each of keys: first, one past the last; [B, 2 V]."""
  meet_BUV = blocks.meet(start_BQ, end_BQ, keys, tile.query, tile.key)
  walk = jnp.stack(blocks.span(meet_BUV, axis=1), -1)
  return walk.reshape(len(walk), -1).astype(jnp.int32)


def _padded(block: int, *arrays: jax.Array) -> list[jax.Array]:
  """Whole blocks of tokens; head dims as a matrix product takes them."""
  out = []
  for x in arrays:
    x = blocks.pad_tokens(x, block, axis=2 if x.ndim == 3 else 1)
    if x.ndim == 4:
      K = x.shape[3]
      wanted = max(LEAST_DIM, 1 << (K - 1).bit_length())
      x = jnp.pad(x, [(0, 0)] * 3 + [(0, wanted - K)])
    out.append(x)
  return out


def _call(kernel, name, tile, block, own, other, results, interpret):
  """Runs a kernel for every block of tokens, row and head.

  Args:
    kernel: called with references to `own`, `other` and `results`.
    name: of the kernel, in profiles.
    tile: how Triton runs it.
    block: tokens a program holds.
    own: arrays of which it holds a block; the first its walk.
    other: arrays that it reaches whole.
    results: shapes of what it writes a block of.
    interpret: run without a GPU.
  """
  walk, tokens = own[0], own[1]
  B, T, N, _ = tokens.shape
  steps = walk.shape[1] // (T // block)
  return pl.pallas_call(
    kernel,
    grid=(T // block, B, N),
    in_specs=[
      _spec(walk, steps),
      *(_spec(x, block) for x in own[1:]),
      *(_spec(x, None) for x in other),
    ],
    out_specs=[_spec(x, block) for x in results],
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
    compiler_params=plgpu.CompilerParams(
      num_warps=tile.warps, num_stages=tile.stages
    ),
    interpret=interpret,
    name=name,
  )(*own, *other)


def _spec(x, block: int | None):
  """What a program (block, row, head) holds: a block of tokens, or all.

  x is [B, T, N, K], [B, N, T] or [B, T].
  """
  size = block or x.shape[1 if x.ndim == 4 else -1]
  at = (lambda i: i) if block else (lambda i: 0)
  if x.ndim == 4:
    shape = (None, size, None, x.shape[3])
    return pl.BlockSpec(shape, lambda i, b, n: (b, at(i), n, 0))
  if x.ndim == 3:
    return pl.BlockSpec((None, None, size), lambda i, b, n: (b, n, at(i)))
  return pl.BlockSpec((None, size), lambda i, b, n: (b, at(i)))
