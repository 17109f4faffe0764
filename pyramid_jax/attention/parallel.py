"""Attention of one row whose tokens lie on several devices.

Every device holds a run of the text and a run of the latent tokens. Where the
number of devices divides the heads, one all-to-all gives each device all tokens
of some heads (DeepSpeed-Ulysses, Jacobs et al., 2023); elsewhere each keeps its
queries and gathers all keys and values. Tokens take their places in attention
only then: the order of a row mixes text and latent tokens of all devices.

Legend: B rows, M text, L latent, J = M + L tokens, N heads, K head dim, Q
tokens at hand.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Attend = Callable[..., jax.Array]  # q, k, v, k_start, k_end -> result


class Row(NamedTuple):
  """How the tokens of rows stand in attention.

  Attributes:
    order_BJ: place, among the tokens as they lie, of each in attention.
    inverse_BJ: the inverse permutation.
    k_start_BJ: first key of each token, in the order of attention.
    k_end_BJ: one past its last key.
  """

  order_BJ: jax.Array
  inverse_BJ: jax.Array
  k_start_BJ: jax.Array
  k_end_BJ: jax.Array


@jax.custom_vjp
def permute(x_BJ: jax.Array, order_BJ: jax.Array, inverse_BJ: jax.Array):
  """x[b, order[b]]; its gradient is a gather too, not a scatter."""
  index = order_BJ.reshape(*order_BJ.shape, *([1] * (x_BJ.ndim - 2)))
  return jnp.take_along_axis(x_BJ, index, axis=1)


permute.defvjp(
  lambda x, order, inverse: (permute(x, order, inverse), (order, inverse)),
  lambda saved, g: (permute(g, saved[1], saved[0]), None, None),
)


def lay_out(row: Row, text: int, latent: int, axis: str, devices: int) -> Row:
  """A row of concat([text, latent]) as its tokens lie along a mesh axis.

  Each device holds an equal run of the text tokens, then one of the latent
  tokens.

  Raises:
    ValueError: a number of tokens that the devices do not divide.
  """
  if devices == 1:
    return row
  for name, size in (("text", text), ("latent", latent)):
    if size % devices:
      raise ValueError(
        f"{size} {name} tokens of a row cannot be split over mesh axis "
        f"{axis!r} of {devices} devices; make them a multiple, for example "
        f"{-(-size // devices) * devices}."
      )
  runs = np.split(np.arange(text + latent), [text])
  token_J = np.concatenate([x.reshape(devices, -1) for x in runs], 1).ravel()
  place_J = jnp.asarray(np.argsort(token_J))
  return row._replace(
    order_BJ=place_J[row.order_BJ], inverse_BJ=row.inverse_BJ[:, token_J]
  )


def attend_shard(
  attend: Attend,
  text: Sequence[jax.Array],
  latent: Sequence[jax.Array],
  row: Row,
  axis: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Attention of the text and latent tokens at hand with all of their rows.

  Inside `shard_map` if an axis is named.

  Args:
    attend: the attention of queries at hand over keys at hand.
    text: q, k, v of the text tokens, [B, M at hand, N, K].
    latent: the same of the latent tokens.
    row: of all tokens, see `lay_out`.
    axis: mesh axis over which tokens are split.
  """
  M, heads = text[0].shape[1:3]
  qkv = [jnp.concatenate(x, 1) for x in zip(text, latent, strict=True)]
  devices = jax.lax.axis_size(axis) if axis else 1
  if devices == 1:
    out = whole(attend, *qkv, row)
  elif heads % devices == 0:
    out = by_heads(attend, axis, *qkv, row)
  else:
    out = by_queries(attend, axis, *qkv, row, M)
  return out[:, :M], out[:, M:]


def whole(attend: Attend, q_BJNK, k_BJNK, v_BJNK, row: Row) -> jax.Array:
  """Attention of all tokens of a row, as they lie; all are at hand."""
  q, k, v = (
    permute(x, row.order_BJ, row.inverse_BJ) for x in (q_BJNK, k_BJNK, v_BJNK)
  )
  out = attend(q, k, v, row.k_start_BJ, row.k_end_BJ)
  return permute(out, row.inverse_BJ, row.order_BJ)


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
      row.order_BJ,
      row.inverse_BJ,
    )
    for x in (k_BQNK, v_BQNK)
  )
  Q = q_BQNK.shape[1]
  start, end = (
    jax.lax.dynamic_slice_in_dim(
      jnp.take_along_axis(x, row.inverse_BJ, 1),
      Q * jax.lax.axis_index(axis),
      Q,
      axis=1,
    )
    for x in (row.k_start_BJ, row.k_end_BJ)
  )
  streams = (slice(text), slice(text, None))
  out = [attend(q_BQNK[:, s], k, v, start[:, s], end[:, s]) for s in streams]
  return jnp.concatenate(out, 1)
