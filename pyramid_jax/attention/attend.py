"""The one entry point of attention, for a whole row or two streams of one.

Legend: B rows, J = M + L tokens of a row, L latent, M text, N heads, K head
dim.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from pyramid_jax.attention import dense, xla

# by name; "auto" is the best for the platform
IMPLEMENTATIONS = {"xla": xla.range_attention, "dense": dense.dense_attention}


def attend(
  q_BJNK: jax.Array,
  k_BJNK: jax.Array,
  v_BJNK: jax.Array,
  k_start_BJ: jax.Array,
  k_end_BJ: jax.Array,
  implementation: str = "auto",
) -> jax.Array:
  """Softmax attention of each query over its keys [k_start, k_end).

  With "auto", which kernel runs is decided when the program is lowered for a
  platform: a kernel for one is an argument of `platform_dependent` here. The
  result is named "attn_residual", so a remat policy can keep it.

  Raises:
    ValueError: an implementation that is not there.
  """
  args = (q_BJNK, k_BJNK, v_BJNK, k_start_BJ, k_end_BJ)
  if implementation == "auto":
    out = jax.lax.platform_dependent(*args, default=xla.range_attention)
  elif implementation in IMPLEMENTATIONS:
    out = IMPLEMENTATIONS[implementation](*args)
  else:
    raise ValueError(
      f"attention {implementation!r} is not auto, {', '.join(IMPLEMENTATIONS)}."
    )
  return checkpoint_name(out, "attn_residual")


@jax.custom_vjp
def permute(x_BJ: jax.Array, order_BJ: jax.Array, inverse_BJ: jax.Array):
  """x[b, order[b]]; its gradient is a gather too, not a scatter."""
  index = order_BJ.reshape(*order_BJ.shape, *([1] * (x_BJ.ndim - 2)))
  return jnp.take_along_axis(x_BJ, index, axis=1)


permute.defvjp(
  lambda x, order, inverse: (permute(x, order, inverse), (order, inverse)),
  lambda saved, g: (permute(g, saved[1], saved[0]), None, None),
)


def attend_joint(
  text: tuple[jax.Array, jax.Array, jax.Array],
  latent: tuple[jax.Array, jax.Array, jax.Array],
  order_BJ: jax.Array,
  inverse_BJ: jax.Array,
  k_start_BJ: jax.Array,
  k_end_BJ: jax.Array,
  *,
  batch_axes: Sequence[str] = (),
  head_axes: Sequence[str] = (),
  implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """Attention of text and latent tokens together, in `order`.

  Args:
    text: q, k, v of the text tokens, each [B, M, N, K].
    latent: the same of the latent tokens, [B, L, N, K].
    order_BJ: places in concat([text, latent]) as they stand in attention.
    inverse_BJ: the inverse permutation.
    k_start_BJ: first key of each token, in that order.
    k_end_BJ: one past its last key.
    batch_axes: mesh axes over which rows are split, if a mesh is set.
    head_axes: mesh axes over which heads are split.
    implementation: see `attend`.

  Returns:
    the results for text [B, M, N, K] and latent [B, L, N, K] tokens.
  """
  M = text[0].shape[1]

  def local(text, latent, order, inverse, k_start, k_end):
    q, k, v = (
      permute(jnp.concatenate([t, x], 1), order, inverse)
      for t, x in zip(text, latent, strict=True)
    )
    out = permute(
      attend(q, k, v, k_start, k_end, implementation), inverse, order
    )
    return out[:, :M], out[:, M:]

  mesh = jax.sharding.get_abstract_mesh()
  args = (text, latent, order_BJ, inverse_BJ, k_start_BJ, k_end_BJ)
  if mesh.empty:
    return local(*args)
  heads = _dividing(mesh, head_axes, text[0].shape[2])
  rows = PartitionSpec(tuple(batch_axes))
  tokens = PartitionSpec(tuple(batch_axes), None, heads)
  # A kernel must see local arrays: outside shard_map the compiler would
  # gather whole rows around it.
  return jax.shard_map(
    local,
    in_specs=((tokens,) * 3, (tokens,) * 3, rows, rows, rows, rows),
    out_specs=(tokens, tokens),
    check_vma=False,
  )(*args)


def _dividing(mesh, axes: Sequence[str], size: int) -> tuple[str, ...] | None:
  """`axes` if together they divide `size`, else None (the dimension whole)."""
  split = 1
  for axis in axes:
    split *= mesh.shape[axis]
  return tuple(axes) if axes and size % split == 0 else None
