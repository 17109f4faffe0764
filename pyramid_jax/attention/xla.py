"""Range attention in plain XLA: any platform, memory linear in the row.

Legend: B rows, Q queries, R keys, N heads, K head dim.
"""

import functools

import jax
import jax.numpy as jnp


def range_attention(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  *,
  chunk: int = 512,
) -> jax.Array:
  """Softmax attention of each query over the keys [k_start, k_end).

  Queries are taken `chunk` at a time and recomputed in the backward pass, so
  no more than chunk x R logits live at once. Logits and softmax are float32.
  A query with an empty range gives zeros.

  Returns:
    [B, Q, N, K] in the dtype of q.
  """
  B, Q, N, K = q_BQNK.shape
  chunk = min(chunk, Q)
  pad = -Q % chunk
  scale = K**-0.5
  place_R = jnp.arange(k_BRNK.shape[1], dtype=jnp.int32)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def one(args):
    q, start, end = args
    logits = scale * jnp.einsum(
      "BQNK,BRNK->BNQR", q, k_BRNK, preferred_element_type=jnp.float32
    )
    seen = (place_R >= start[..., None]) & (place_R < end[..., None])
    seen = seen[:, None]
    logits = jnp.where(seen, logits, -1e30)
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(logits - peak), 0.0)
    total = weights.sum(-1, keepdims=True)
    weights /= jnp.where(total == 0, 1.0, total)
    return jnp.einsum(
      "BNQR,BRNK->BQNK",
      weights.astype(v_BRNK.dtype),
      v_BRNK,
      preferred_element_type=jnp.float32,
    ).astype(q_BQNK.dtype)

  if chunk == Q:
    return one((q_BQNK, k_start_BQ, k_end_BQ))

  def split(x):
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(B, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

  out = jax.lax.map(one, (split(q_BQNK), split(k_start_BQ), split(k_end_BQ)))
  return out.swapaxes(0, 1).reshape(B, Q + pad, N, K)[:, :Q]
