"""Range attention on TPU, by the splash attention kernels of JAX.

Those kernels take a mask as a function of two integers: the key's place and one
that belongs to the query. The latter is an array like any other, so it carries
both ends of the query's range, `k_start << 16 | k_end`, and the tables of the
blocks to visit are arrays too: nothing of the mask is known at compile time,
and no mask is ever built.

Legend: B rows, Q queries, R keys, N heads, K head dim, U blocks of queries,
V blocks of keys.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask_info as library,
)

from pyramid_jax.attention import blocks
from pyramid_jax.attention.tiles import TPUTiles, for_platform

LIMIT = 1 << 15  # keys: both ends of a range share an int32
LANES = 128  # what every block is a multiple of


def forward(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  *,
  tiles: TPUTiles | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """`xla.forward` by a kernel.

  Raises:
    ValueError: more keys than a range can name.
  """
  Q, R = q_BQNK.shape[1], k_BRNK.shape[1]
  check_length(R)
  tiles = _fitting(tiles or for_platform("tpu"), Q, R)
  q, k, v = _heads_first(q_BQNK, k_BRNK, v_BRNK, tiles)
  visits = _visits(k_start_BQ, k_end_BQ, k.shape[2], tiles, axis=2)
  run = functools.partial(
    splash._splash_attention_forward,
    segment_ids=None,
    sinks=None,
    block_sizes=splash.BlockSizes(*tiles),
    residual_checkpoint_name=None,
    save_residuals=True,
    **_settings(interpret),
  )
  # Row by row: a device holds few of them, and a batch of tables would make
  # the compiler loop over the kernel.
  rows = [run(*row) for row in zip(visits, q, k, v, strict=True)]
  out = jnp.stack([o for o, _ in rows]).swapaxes(1, 2)[:, :Q]
  logsumexp = jnp.stack([lse for _, (lse,) in rows])[..., :Q]
  # of a query that sees nothing the kernel leaves 0 / 0 or a plain mean
  empty = k_end_BQ <= k_start_BQ
  out = jnp.where(empty[..., None, None], 0, out)
  return out, jnp.where(empty[:, None], 0, logsumexp)


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
  tiles: TPUTiles | None = None,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`xla.backward` by two kernels: one for q, one for k and v.

  (The single kernel that splash attention also has needs R / tiles.key times
  the memory of q for partial sums.)
  """
  Q, R = q_BQNK.shape[1], k_BRNK.shape[1]
  tiles = _fitting(tiles or for_platform("tpu"), Q, R)
  q, k, v = _heads_first(q_BQNK, k_BRNK, v_BRNK, tiles)
  grad = blocks.pad_tokens(grad_BQNK, tiles.query).swapaxes(1, 2)
  delta = blocks.scores_gradient(out_BQNK, grad_BQNK)
  logsumexp, delta = (
    blocks.pad_tokens(x, tiles.query, axis=2) for x in (logsumexp_BNQ, delta)
  )
  layout = splash.QKVLayout.HEAD_DIM_MINOR
  settings = dict(
    bq=tiles.query,
    bkv=tiles.key,
    q_layout=layout,
    k_layout=layout,
    v_layout=layout,
    **_settings(interpret),
  )
  visits = functools.partial(_visits, k_start_BQ, k_end_BQ, k.shape[2], tiles)
  rows = []
  for by_query, by_key, *row in zip(
    visits(axis=2), visits(axis=1), q, k, v, logsumexp, grad, delta, strict=True
  ):
    args = (*row[:3], None, None, *row[3:])
    _, dk, dv = splash._splash_attention_bwd_dkv(
      *args,
      mask_info=by_key,
      bkv_compute=tiles.compute,
      use_fused_bwd_kernel=False,
      **settings,
    )
    dq = splash._splash_attention_bwd_dq(*args, mask_info=by_query, **settings)
    rows.append((dq, dk, dv))
  dq, dk, dv = (jnp.stack(x).swapaxes(1, 2) for x in zip(*rows, strict=True))
  dq = (dq * q_BQNK.shape[-1] ** -0.5).astype(q_BQNK.dtype)
  return dq[:, :Q], dk[:, :R], dv[:, :R]


def check_length(keys: int):
  """Refuses rows whose ranges do not fit.

  Raises:
    ValueError: with the limit and what to do.
  """
  if keys > LIMIT:
    raise ValueError(
      f"a row of {keys} tokens, text and latent, exceeds the {LIMIT} of "
      "attention on TPU; make latents.latent_tokens + latents.text_tokens of "
      "the config smaller, or ask for model.attention = 'xla', which is slower."
    )


def _sees(query, key):
  """The mask function: whether a key's place lies in the query's range."""
  return (key >= query >> 16) & (key < query & 0xFFFF)


def _settings(interpret: bool) -> dict:
  """What all kernels are told alike."""
  return dict(
    mask_value=splash.DEFAULT_MASK_VALUE,
    is_mqa=False,
    attn_logits_soft_cap=None,
    mask_function=_sees,
    interpret=interpret,
  )


def _fitting(tiles: TPUTiles, queries: int, keys: int) -> TPUTiles:
  """Blocks no longer than a short row."""
  query, key = (
    min(block, -(-tokens // LANES) * LANES)
    for block, tokens in ((tiles.query, queries), (tiles.key, keys))
  )
  return TPUTiles(query, key, math.gcd(tiles.compute, key))


def _heads_first(q_BQNK, k_BRNK, v_BRNK, tiles: TPUTiles):
  """[B, N, Q or R, K] each, padded to whole blocks; q times K^-1/2."""
  q = (q_BQNK * q_BQNK.shape[-1] ** -0.5).astype(q_BQNK.dtype)
  q = blocks.pad_tokens(q, tiles.query)
  k, v = (blocks.pad_tokens(x, tiles.key) for x in (k_BRNK, v_BRNK))
  return tuple(x.swapaxes(1, 2) for x in (q, k, v))


def _visits(k_start_BQ, k_end_BQ, keys: int, tiles: TPUTiles, axis: int):
  """Splash attention's tables of each row; inner steps run along `axis`."""
  start, end = (
    blocks.pad_tokens(x, tiles.query) for x in (k_start_BQ, k_end_BQ)
  )
  meet_BUV = blocks.meet(start, end, keys, tiles.query, tiles.key)
  hold_BUV = blocks.nearest(meet_BUV, axis)
  small = jnp.int8 if max(meet_BUV.shape[1:]) <= 128 else jnp.int16
  return [
    library.MaskInfo(
      data_next=hold[None].astype(small),
      mask_next=None,
      block_mask=meet[None].astype(jnp.int8),
      partial_mask_blocks=None,
      q_sequence=bounds,
    )
    for hold, meet, bounds in zip(
      hold_BUV, meet_BUV, start << 16 | end, strict=True
    )
  ]
