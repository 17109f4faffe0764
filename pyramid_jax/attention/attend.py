"""The one entry point of attention, for a whole row or two streams of one.

Legend: B rows, J = M + L tokens of a row, L latent, M text, N heads, K head
dim, Q queries, R keys.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from pyramid_jax.attention import dense, gpu, parallel, tpu, xla

RESIDUAL = "attn_residual"  # the name that a remat policy keeps


class Kernel(NamedTuple):
  """One way to compute attention: see `xla.forward` and `xla.backward`."""

  forward: Callable[..., tuple[jax.Array, jax.Array]]
  backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


KERNELS = {
  name: Kernel(module.forward, module.backward)
  for name, module in (("xla", xla), ("tpu", tpu), ("gpu", gpu))
}


def attend(
  q_BQNK: jax.Array,
  k_BRNK: jax.Array,
  v_BRNK: jax.Array,
  k_start_BQ: jax.Array,
  k_end_BQ: jax.Array,
  implementation: str | Kernel = "auto",
) -> jax.Array:
  """Softmax attention of each query over its keys [k_start, k_end).

  With "auto", which kernel runs is decided when the program is lowered for a
  platform. What the backward pass needs of the forward one (the result and the
  logarithm of each softmax's sum) is named "attn_residual": a remat policy that
  keeps it spares the second run of the forward kernel.

  Returns:
    [B, Q, N, K] in the dtype of q; zeros where the range is empty.

  Raises:
    ValueError: an implementation that is not there, or a row too long for it.
  """
  args = (q_BQNK, k_BRNK, v_BRNK, k_start_BQ, k_end_BQ)
  if implementation == "dense":
    return checkpoint_name(dense.dense_attention(*args), RESIDUAL)
  if implementation == "auto":
    long = k_BRNK.shape[1] > tpu.LIMIT
    # all are traced: one that would refuse the row must not be, unless it is
    # the one that will run
    implementation = _by_platform(not long or platform() == "tpu")
  elif isinstance(implementation, str):
    if implementation not in KERNELS:
      raise ValueError(
        f"attention {implementation!r} is not auto, dense, "
        f"{', '.join(KERNELS)}."
      )
    implementation = KERNELS[implementation]
  return _attend(implementation, *args)


@functools.cache
def _by_platform(with_tpu: bool) -> Kernel:
  """The kernel of whatever platform the program is lowered for."""
  kernels = {"tpu": KERNELS["tpu"], "cuda": KERNELS["gpu"]}
  if not with_tpu:
    del kernels["tpu"]

  def choose(part: str):
    branches = {p: getattr(kernel, part) for p, kernel in kernels.items()}
    return lambda *args: jax.lax.platform_dependent(
      *args, **branches, default=getattr(xla, part)
    )

  return Kernel(choose("forward"), choose("backward"))


def platform() -> str:
  """That of the current mesh's devices; without one, that of this process."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(kernel: Kernel, *args: jax.Array) -> jax.Array:
  return kernel.forward(*args)[0]


def _attend_forward(kernel: Kernel, *args: jax.Array):
  out, logsumexp = (checkpoint_name(x, RESIDUAL) for x in kernel.forward(*args))
  return out, (*args, out, logsumexp)


def _attend_backward(kernel: Kernel, saved, grad: jax.Array):
  return (*kernel.backward(*saved, grad), None, None)


_attend.defvjp(_attend_forward, _attend_backward)


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
  token_axis: str | None = None,
  implementation: str | Kernel = "auto",
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
    token_axis: mesh axis over which the tokens of both streams are split, see
      `parallel`.
    implementation: see `attend`.

  Returns:
    the results for text [B, M, N, K] and latent [B, L, N, K] tokens.

  Raises:
    ValueError: tokens that `token_axis` does not divide; see also `attend`.
  """
  attention = functools.partial(attend, implementation=implementation)
  row = parallel.Row(order_BJ, inverse_BJ, k_start_BJ, k_end_BJ)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return parallel.attend_shard(attention, text, latent, row)
  if token_axis:
    M, L = text[0].shape[1], latent[0].shape[1]
    row = parallel.lay_out(row, M, L, token_axis, mesh.shape[token_axis])
  rows = PartitionSpec(tuple(batch_axes))
  heads = _dividing(mesh, head_axes, text[0].shape[2])
  tokens = PartitionSpec(tuple(batch_axes), token_axis, heads)
  # A kernel must see local arrays: outside shard_map the compiler would
  # gather whole rows around it.
  return jax.shard_map(
    functools.partial(parallel.attend_shard, attention, axis=token_axis),
    in_specs=((tokens,) * 3, (tokens,) * 3, rows),
    out_specs=(tokens, tokens),
    check_vma=False,
  )(text, latent, row)


def _dividing(mesh, axes: Sequence[str], size: int) -> tuple[str, ...] | None:
  """`axes` if together they divide `size`, else None (the dimension whole)."""
  split = math.prod(mesh.shape[axis] for axis in axes)
  return tuple(axes) if axes and size % split == 0 else None
