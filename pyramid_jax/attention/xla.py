"""Range attention in plain XLA: any platform, memory linear in the row.

Legend: B rows, Q queries, R keys, N heads, K head dim.
"""

import jax
import jax.numpy as jnp

from pyramid_jax.attention.blocks import pad_tokens, scores_gradient

CHUNK = 512  # queries; chunk x R logits of a head live at once


def forward(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  *,
  chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention of each query over the keys [k_start, k_end).

  Queries are taken `chunk` at a time. Logits and softmax are float32. A query
  with an empty range gives zeros.

  Returns:
    [B, Q, N, K] in the dtype of q, and the logarithm of each softmax's sum,
    float32 [B, N, Q], 0 where the range is empty.
  """

  def one(_, args):
    q, start, end = args
    logits, seen = _logits(q, k_BRNK, start, end)
    peak = logits.max(-1, keepdims=True)
    weights = jnp.where(seen, jnp.exp(logits - peak), 0.0)
    total = weights.sum(-1, keepdims=True)
    empty = total == 0
    total = jnp.where(empty, 1.0, total)
    out = _product("BNQR,BRNK->BQNK", weights / total, v_BRNK)
    logsumexp = jnp.where(empty, 0.0, peak + jnp.log(total))
    return None, (out.astype(q.dtype), logsumexp[..., 0])

  chunks = _split((q_BQNK, k_start_BQ, k_end_BQ), chunk)
  _, (out, logsumexp) = jax.lax.scan(one, None, chunks)
  Q = q_BQNK.shape[1]
  return _join(out, 1)[:, :Q], _join(logsumexp, 2)[..., :Q]


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
  chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gradients of q, k, v from that of the result; arguments as `forward`."""
  scale = q_BQNK.shape[-1] ** -0.5
  lse, delta = (
    x.swapaxes(1, 2)
    for x in (logsumexp_BNQ, scores_gradient(out_BQNK, grad_BQNK))
  )

  def one(carry, args):
    q, start, end, lse, delta, grad = args
    logits, seen = _logits(q, k_BRNK, start, end)
    lse, delta = (x.swapaxes(1, 2)[..., None] for x in (lse, delta))
    weights = jnp.where(seen, jnp.exp(logits - lse), 0.0)
    dweights = _product("BQNK,BRNK->BNQR", grad, v_BRNK)
    dlogits = scale * weights * (dweights - delta)
    dk = _product("BNQR,BQNK->BRNK", dlogits, q)
    dv = _product("BNQR,BQNK->BRNK", weights, grad)
    dq = _product("BNQR,BRNK->BQNK", dlogits, k_BRNK).astype(q.dtype)
    return (carry[0] + dk, carry[1] + dv), dq

  args = (q_BQNK, k_start_BQ, k_end_BQ, lse, delta, grad_BQNK)
  zeros = jnp.zeros(k_BRNK.shape, jnp.float32)
  (dk, dv), dq = jax.lax.scan(one, (zeros, zeros), _split(args, chunk))
  dq = _join(dq, 1)[:, : q_BQNK.shape[1]]
  return dq, dk.astype(k_BRNK.dtype), dv.astype(v_BRNK.dtype)


def _logits(q_BQNK, k_BRNK, start_BQ, end_BQ) -> tuple[jax.Array, jax.Array]:
  """Float32 [B, N, Q, R], very negative outside the range, and the mask."""
  logits = _product("BQNK,BRNK->BNQR", q_BQNK, k_BRNK)
  place_R = jnp.arange(k_BRNK.shape[1], dtype=jnp.int32)
  seen = (place_R >= start_BQ[..., None]) & (place_R < end_BQ[..., None])
  scale = q_BQNK.shape[-1] ** -0.5
  return jnp.where(seen[:, None], scale * logits, -1e30), seen[:, None]


def _product(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Float32 sums of products in the dtype of b."""
  return jnp.einsum(
    pattern, a.astype(b.dtype), b, preferred_element_type=jnp.float32
  )


def _split(tree, chunk: int):
  """[B, Q, ...] as [chunks, B, chunk, ...], padded with zeros."""

  def one(x):
    size = min(chunk, x.shape[1])
    x = pad_tokens(x, size)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:]).swapaxes(0, 1)

  return jax.tree.map(one, tree)


def _join(x: jax.Array, axis: int) -> jax.Array:
  """Chunks along the first dimension joined along `axis` of what they hold."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
