"""Floating point operations: by a closed formula, and of a traced program.

The formula counts what the mathematics needs: a multiplication and an addition
of every matrix product, valid tokens and visible pairs only, nothing twice. It
is the "model FLOPs" of a utilisation. The trace counts what runs: padding,
recomputation, and attention as it is implemented. (A compiler's own count sees
the body of a loop once, and a kernel not at all.)

Legend: L latent tokens, M text tokens, S segments, D width, C values of a
patch, E P dims of text and pooled vectors, F = mlp_ratio.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

from pyramid_jax.config import DiTConfig


class Flops(NamedTuple):
  """Of dense layers and convolutions, and of attention."""

  dense: float
  attention: float

  @property
  def total(self) -> float:
    """Both."""
    return self.dense + self.attention

  def times(self, n: float) -> "Flops":
    """n times as much."""
    return Flops(n * self.dense, n * self.attention)


TIMESTEP = 256  # features of a timestep
# Matrix products of the attention kernels; the backward pass is two of them.
KERNELS = {"forward": 2, "backward": 7}
STEP = 3  # a forward pass; twice as much for the gradients of both factors


def forward(
  model: DiTConfig, latent: float, text: float, segments: float, pairs: float
) -> Flops:
  """One call of the transformer on so many tokens, segments and pairs."""
  D = model.heads * model.head_dim
  F, layers = model.mlp_ratio, model.layers
  token, tokens = (4 + 2 * F) * D * D, latent + text
  dense = layers * (token * tokens + 2 * 6 * D * D * segments)
  if model.kind == "mmdit":  # the last block's text only feeds attention
    dense -= (1 + 2 * F) * D * D * text + 4 * D * D * segments
  dense += model.single_layers * (token * tokens + 3 * D * D * segments)
  C = model.latent_channels * model.patch**2
  dense += 2 * D * D * segments + C * D * latent  # the way out
  dense += 2 * D * D * segments  # second layers of the embeddings
  dense += inputs(model, latent, text, segments)
  attention = (layers + model.single_layers) * 2 * D * pairs
  return Flops(2 * dense, 2 * attention)


def inputs(
  model: DiTConfig, latent: float, text: float, segments: float
) -> float:
  """Multiplications of the layers that meet the data: they pass no gradient."""
  D = model.heads * model.head_dim
  C = model.latent_channels * model.patch**2
  features = TIMESTEP + model.pooled_dim
  return D * (C * latent + model.text_dim * text + features * segments)


def training(
  model: DiTConfig, latent: float, text: float, segments: float, pairs: float
) -> Flops:
  """Loss and gradient."""
  once = forward(model, latent, text, segments, pairs)
  unused = 2 * inputs(model, latent, text, segments)
  return Flops(STEP * once.dense - unused, STEP * once.attention)


def kernel_attention(model: DiTConfig, visited: float, train: bool) -> float:
  """What the attention kernels execute on `visited` pairs.

  Recomputing layers runs the forward pass again unless its result is kept.
  """
  products = KERNELS["forward"]
  if train:
    products *= 2 if model.remat == "layer" else 1
    products += KERNELS["backward"]
  width = model.heads * model.head_dim
  return 2.0 * (model.layers + model.single_layers) * products * width * visited


@dataclasses.dataclass
class Traced:
  """What a traced program executes, over all devices.

  Attributes:
    flops: of matrix products and convolutions, loops times their length.
    kernels: custom kernels met, whose operations are not in `flops`.
    unknown: loops of unknown length, counted once.
  """

  flops: float = 0.0
  kernels: int = 0
  unknown: int = 0


def traced(jaxpr, platform: str) -> Traced:
  """Counts a program; `platform` says which branch a kernel's choice takes."""
  total = Traced()
  _count(getattr(jaxpr, "jaxpr", jaxpr), 1.0, platform, total)
  return total


def _count(jaxpr, times: float, platform: str, total: Traced):
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
      total.flops += times * _dot(eqn)
    elif name == "conv_general_dilated":
      total.flops += times * _convolution(eqn)
    elif name == "pallas_call":
      total.kernels += 1
    elif name == "cond":
      _count_cond(params, times, platform, total)
    else:
      inner = times
      if name == "scan":
        inner *= params["length"]
      elif name == "while":
        total.unknown += 1
      elif name == "shard_map":
        inner *= _shards(params)
      for sub in inside(params):
        _count(sub, inner, platform, total)


def _count_cond(params, times, platform, total):
  """The branch of a platform; else the mean: a scan that switches takes each.

  That is exact where every branch comes equally often, as in the sampler. A
  choice by platform is told by the platforms of its branches: its index may be
  a loop's constant that was found outside.
  """
  branches = params["branches"]
  if platforms := params.get("branches_platforms"):
    branches = [branches[_branch(platforms, platform)]]
  for branch in branches:
    _count(branch.jaxpr, times / len(branches), platform, total)


def _branch(platforms, platform: str) -> int:
  """Which branch `lax.platform_dependent` takes."""
  for i, names in enumerate(platforms):
    if names is None or platform in names:
      return i
  return len(platforms) - 1


def _shards(params) -> int:
  """Devices that each run a `shard_map`'s body on a part of their own."""
  mesh = params["mesh"]
  return math.prod(mesh.shape[a] for a in params["newly_manual_axes"])


def inside(params) -> Iterator:
  """The programs in an equation's parameters."""
  for value in params.values():
    for x in value if isinstance(value, tuple | list) else (value,):
      x = getattr(x, "jaxpr", x)
      if hasattr(x, "eqns"):
        yield x


def _dot(eqn) -> float:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  left = eqn.invars[0].aval.shape
  return 2.0 * math.prod(eqn.outvars[0].aval.shape) * _size(left, contracted)


def _convolution(eqn) -> float:
  """Zeros that dilation puts between values cost nothing.

  A dilated kernel's are none of the values in its shape, which are counted.
  """
  params, kernel = eqn.params, eqn.invars[1].aval.shape
  numbers = params["dimension_numbers"]
  out = math.prod(eqn.outvars[0].aval.shape)
  per_value = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
  return 2.0 * out * per_value / math.prod(params["lhs_dilation"])


def _size(shape, dims) -> int:
  return functools.reduce(lambda n, d: n * shape[d], dims, 1)
