"""Attention with a dense mask: the definition, for comparison and small rows.

Legend: B rows, Q queries, R keys, N heads, K head dim.
"""

import jax
import jax.numpy as jnp


def dense_attention(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
) -> jax.Array:
  """`attend.attend` with scores [B, N, Q, R] in memory, float32."""
  q, k, v = (x.astype(jnp.float32) for x in (q_BQNK, k_BRNK, v_BRNK))
  scores = jnp.einsum("BQNK,BRNK->BNQR", q, k) * q.shape[-1] ** -0.5
  key = jnp.arange(k.shape[1])
  seen = (key >= k_start_BQ[..., None]) & (key < k_end_BQ[..., None])
  seen = seen[:, None]  # a query with an empty range gives zeros
  weights = seen * jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1)
  return jnp.einsum("BNQR,BRNK->BQNK", weights, v).astype(v_BRNK.dtype)
