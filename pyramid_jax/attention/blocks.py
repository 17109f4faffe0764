"""Which blocks of queries and of keys meet; kernels skip all others.

Legend: B rows, Q queries, R keys, U blocks of queries, V blocks of keys.
"""

import jax
import jax.numpy as jnp
from einops import rearrange


def meet(
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  keys: int,
  query_block: int,
  key_block: int,
) -> jax.Array:
  """Whether some query of a block may see some key of a block, [B, U, V].

  Exact for any ranges. `query_block` divides Q and `key_block` divides `keys`.
  """
  first_V = jnp.arange(0, keys, key_block, dtype=jnp.int32)
  start, end = k_start_BQ[..., None], k_end_BQ[..., None]
  sees = (start < end) & (start < first_V + key_block) & (end > first_V)
  return rearrange(sees, "B (U q) V -> B U V q", q=query_block).any(-1)


def span(meet_BUV: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  """First and one past the last block that meets, along U (1) or V (2).

  Equal where none does. Tokens in joint order give spans without gaps. Of text
  queries alone (`parallel.by_queries`), which leave out the latent tokens of
  their segments, a span may also hold blocks that do not meet: they are
  computed and masked, at their cost in time.
  """
  n = meet_BUV.shape[axis]
  place = jax.lax.broadcasted_iota(jnp.int32, meet_BUV.shape, axis)
  last = jnp.where(meet_BUV, place + 1, 0).max(axis)
  first = jnp.where(meet_BUV, place, n).min(axis)
  return jnp.minimum(first, last), last


def nearest(meet_BUV: jax.Array, axis: int) -> jax.Array:
  """The block to hold at each step along `axis`, [B, U, V] int32.

  Where blocks meet it is the step's own; elsewhere the last that met, before
  the first the first: a step without work then moves no memory.
  """
  place = jax.lax.broadcasted_iota(jnp.int32, meet_BUV.shape, axis)
  first = jnp.expand_dims(span(meet_BUV, axis)[0], axis)
  return jax.lax.cummax(jnp.where(meet_BUV, place, first), axis=axis)


def pad_tokens(x: jax.Array, multiple: int, axis: int = 1) -> jax.Array:
  """Zeros behind the tokens, up to a multiple; as ranges they are empty."""
  pad = [(0, 0)] * x.ndim
  pad[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, pad)


def scores_gradient(out_BQNK: jax.Array, grad_BQNK: jax.Array) -> jax.Array:
  """sum_k out x gradient of it, [B, N, Q] float32.

  What the softmax's gradient subtracts from each query's row of logits.
  """
  return jnp.einsum(
    "BQNK,BQNK->BNQ", out_BQNK, grad_BQNK, preferred_element_type=jnp.float32
  )
