"""Attention of one row whose tokens lie on several devices.

Every device holds a run of the text and a run of the latent tokens. Where the
number of devices divides the heads, one all-to-all gives each device all tokens
of some heads (DeepSpeed-Ulysses, Jacobs et al., 2023); elsewhere each keeps its
queries and gathers all keys and values. Tokens take their places in attention
only then: the order of a row mixes text and latent tokens of all devices.

Legend: B rows, M text, L latent, J = M + L tokens, P tokens of all devices with
padding, N heads, K head dim, Q queries and R keys at hand.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Attend = Callable[..., jax.Array]  # q, k, v, k_start, k_end -> result


class Row(NamedTuple):
  """How a row's tokens stand in attention.

  Attributes:
    order_BP: place, as the tokens lie device by device, of each in attention.
    inverse_BP: the inverse permutation.
    k_start_BP: first key of each token, in the order of attention.
    k_end_BP: one past its last key.
  """

  order_BP: jax.Array
  inverse_BP: jax.Array
  k_start_BP: jax.Array
  k_end_BP: jax.Array


@jax.custom_vjp
def permute(x_BJ: jax.Array, order_BJ: jax.Array, inverse_BJ: jax.Array):
  """x[b, order[b]]; its gradient is a gather too, not a scatter."""
  index = order_BJ.reshape(*order_BJ.shape, *([1] * (x_BJ.ndim - 2)))
  return jnp.take_along_axis(x_BJ, index, axis=1)


permute.defvjp(
  lambda x, order, inverse: (permute(x, order, inverse), (order, inverse)),
  lambda saved, g: (permute(g, saved[1], saved[0]), None, None),
)


def lay_out(row: Row, text: int, latent: int, devices: int) -> Row:
  """A row in concat([text, latent]) as its tokens lie on `devices`.

  Each holds an equal run of the text tokens, then one of the latent tokens,
  padding behind the last; padding stands last in attention and sees nothing.
  """
  if devices == 1:
    return row
  held = [-(-n // devices) for n in (text, latent)]
  tokens = np.full((devices, sum(held)), -1)
  for size, first, column in ((text, 0, 0), (latent, text, held[0])):
    run = held[0] if column == 0 else held[1]
    padded = np.full(devices * run, -1)
    padded[:size] = first + np.arange(size)
    tokens[:, column : column + run] = padded.reshape(devices, run)
  token_P = tokens.reshape(-1)
  token_P[token_P < 0] = np.arange(text + latent, token_P.size)
  place_P = np.argsort(token_P)
  B, extra = len(row.order_BP), token_P.size - text - latent
  behind = np.broadcast_to(np.arange(text + latent, token_P.size), (B, extra))
  order, inverse = (
    jnp.concatenate([x, behind], 1) for x in (row.order_BP, row.inverse_BP)
  )
  start, end = (
    jnp.pad(x, ((0, 0), (0, extra))) for x in (row.k_start_BP, row.k_end_BP)
  )
  return Row(jnp.asarray(place_P)[order], inverse[:, token_P], start, end)


def whole(attend: Attend, q_BPNK, k_BPNK, v_BPNK, row: Row) -> jax.Array:
  """Attention of all tokens of a row, as they lie; all are at hand."""
  q, k, v = (
    permute(x, row.order_BP, row.inverse_BP) for x in (q_BPNK, k_BPNK, v_BPNK)
  )
  out = attend(q, k, v, row.k_start_BP, row.k_end_BP)
  return permute(out, row.inverse_BP, row.order_BP)


def by_heads(
  attend: Attend, axis: str, q_BQNK, k_BQNK, v_BQNK, row: Row
) -> jax.Array:
  """`whole`, every device of the axis computing some of the heads.

  Inside `shard_map`; the axis divides the heads at hand.
  """
  q, k, v = (
    jax.lax.all_to_all(x, axis, split_axis=2, concat_axis=1, tiled=True)
    for x in (q_BQNK, k_BQNK, v_BQNK)
  )
  out = whole(attend, q, k, v, row)
  return jax.lax.all_to_all(out, axis, split_axis=1, concat_axis=2, tiled=True)


def by_queries(
  attend: Attend, axis: str, q_BQNK, k_BQNK, v_BQNK, row: Row, text: int
) -> jax.Array:
  """`whole`, every device of the axis computing its own queries.

  Inside `shard_map`. The first `text` queries at hand are text: they and the
  latent ones attend separately, as each stand in the order of attention.
  """
  k, v = (
    permute(
      jax.lax.all_gather(x, axis, axis=1, tiled=True),
      row.order_BP,
      row.inverse_BP,
    )
    for x in (k_BQNK, v_BQNK)
  )
  Q = q_BQNK.shape[1]
  start, end = (
    jax.lax.dynamic_slice_in_dim(
      jnp.take_along_axis(x, row.inverse_BP, 1),
      Q * jax.lax.axis_index(axis),
      Q,
      axis=1,
    )
    for x in (row.k_start_BP, row.k_end_BP)
  )
  streams = (slice(text), slice(text, None))
  out = [attend(q_BQNK[:, s], k, v, start[:, s], end[:, s]) for s in streams]
  return jnp.concatenate(out, 1)
