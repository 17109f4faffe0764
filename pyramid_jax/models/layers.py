"""Layers that several models share; parameters float32, compute in `dtype`.

Legend: B rows, L tokens, D width, F hidden.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.models.init import Init, ones, xavier_uniform, zeros
from pyramid_jax.models.pure import axes


def linear(
  size_in: int,
  size_out: int,
  names: tuple[str | None, str | None],
  *,
  rngs: nnx.Rngs,
  dtype: str = "float32",
  init: Init = xavier_uniform,
  bias: bool = True,
) -> nnx.Linear:
  """A dense layer; `names` are the logical axes of its kernel (in, out)."""
  return nnx.Linear(
    size_in,
    size_out,
    use_bias=bias,
    dtype=jnp.dtype(dtype),
    kernel_init=axes(init, *names),
    bias_init=axes(zeros, names[1]),
    rngs=rngs,
  )


def cast_once(module: nnx.Module, dtype: jnp.dtype) -> nnx.Module:
  """The module with its kernels in a dtype, for several uses.

  Each use would cast for itself. The compiler then lets devices exchange the
  float32 kernels and their gradients, which are twice the bytes.
  """
  is_kernel = lambda path, _: path[-1] == "kernel"
  graph, kernels, rest = nnx.split(module, is_kernel, ...)
  kernels = jax.tree.map(lambda x: x.astype(dtype), kernels)
  return nnx.merge(graph, kernels, rest)


class Scale(nnx.Module):
  """Multiplies by a learned vector, with a learned shift if `bias`."""

  def __init__(self, size: int, name: str | None, *, bias: bool, rngs):
    self.scale = nnx.Param(axes(ones, name)(rngs.params(), (size,)))
    self.bias = (
      nnx.Param(axes(zeros, name)(rngs.params(), (size,))) if bias else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x * self.scale[...]
    return x if self.bias is None else x + self.bias[...]


def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Zero mean and unit variance over the last dimension; float32 inside."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + epsilon)


def rms_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Unit mean square over the last dimension; float32 inside and out."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + epsilon)


gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
gelu = functools.partial(jax.nn.gelu, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
  """x sigmoid(1.702 x), the activation of CLIP-L."""
  return x * jax.nn.sigmoid(1.702 * x)
