"""Name tables: a torch state dict as our parameters, and back.

A model's table is a list of `Name`, one for each of our parameters. Both
directions read the same list, so that what was loaded can be written again.
Layouts are einops patterns: they only move values, so a round trip is exact.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax import traverse_util

from pyramid_jax.config import UserError
from pyramid_jax.models.pure import Params
from pyramid_jax.tensors import flat

SAME = ""
LINEAR = "o i -> i o"
CONV3D = "o i t h w -> t h w i o"
PATCH = "o c p q -> (p q c) o"  # strided convolution -> dense on patches

Torch = str | Sequence[str]
Index = tuple[slice, ...]


class NameTableError(UserError):
  """Tensors that do not fit the model; the message lists every one."""


@contextlib.contextmanager
def named(where: Any) -> Iterator[None]:
  """Puts the place where tensors lie in front of a `NameTableError`."""
  try:
    yield
  except NameTableError as error:
    raise NameTableError(f"{where}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Name:
  """One of our parameters and what torch calls it.

  Attributes:
    ours: its path, dotted.
    torch: a tensor's name, or a sequence of them, which are stacked in a new
      leading dimension before the layout applies. Of a stack: one of these for
      each layer.
    layout: einops pattern from torch to ours, of one layer; its sides swapped
      lead back.
    sizes: lengths that the pattern needs to split a dimension.
    stacked: whether ours has a leading dimension of layers.
  """

  ours: str
  torch: Torch
  layout: str = SAME
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  stacked: bool = False

  def forth(self, x: Any) -> Any:
    """Torch's layout of a layer to ours."""
    return rearrange(x, self.layout, **dict(self.sizes)) if self.layout else x

  def back(self, x: Any) -> Any:
    """Our layout of a layer to torch's."""
    pattern = " -> ".join(reversed(self.layout.split(" -> ")))
    return rearrange(x, pattern, **dict(self.sizes)) if self.layout else x

  @property
  def layers(self) -> Sequence[Torch]:
    """What torch calls each layer; one, if this is no stack."""
    return self.torch if self.stacked else (self.torch,)

  def read(
    self, tensors: Mapping[str, Any], at: Index, dtype: Any
  ) -> np.ndarray:
    """Our parameter at an index; only the tensors of its layers are read."""
    if not self.stacked:
      return self.layer(self.torch, tensors)[at].astype(dtype, copy=False)
    at = at or (slice(None),)
    chosen = self.torch[at[0]]
    first = self.layer(chosen[0], tensors)[at[1:]]
    out = np.empty((len(chosen), *first.shape), dtype)
    out[0] = first
    for i, torch in enumerate(chosen[1:], 1):
      out[i] = self.layer(torch, tensors)[at[1:]]
    return out

  def layer(self, torch: Torch, tensors: Mapping[str, Any]) -> np.ndarray:
    """One layer of our parameter from what torch calls it."""
    if isinstance(torch, str):
      return self.forth(np.asarray(tensors[torch]))
    return self.forth(np.stack([np.asarray(tensors[t]) for t in torch]))


def stacked(names: Sequence[Name], layers: Sequence[int]) -> list[Name]:
  """The names of one layer for a stack; "{}" in torch's is a layer's number.

  Our parameter gains a leading dimension, in the order of `layers`.
  """

  def number(torch: Torch, i: int) -> Torch:
    if isinstance(torch, str):
      return torch.format(i)
    return tuple(t.format(i) for t in torch)

  return [
    dataclasses.replace(
      name, torch=tuple(number(name.torch, i) for i in layers), stacked=True
    )
    for name in names
  ]


def torch_shapes(
  names: Sequence[Name], shapes: Params
) -> dict[str, tuple[int, ...]]:
  """The shape of every torch tensor, from our parameters' shapes.

  Raises:
    NameTableError: a parameter without a name, with two, or a name without
      a parameter; a torch tensor that is used twice.
  """
  arrays = flat(shapes)
  ours = collections.Counter(name.ours for name in names)
  torch = collections.Counter(t for name in names for t in _leaves(name))
  _refuse(
    {
      "parameters without a name": arrays.keys() - ours.keys(),
      "names without a parameter": ours.keys() - arrays.keys(),
      "parameters named twice": {n for n, count in ours.items() if count > 1},
      "tensors used twice": {t for t, count in torch.items() if count > 1},
    }
  )
  result = {}
  for name in names:
    shape = arrays[name.ours].shape[name.stacked :]
    layer = jax.ShapeDtypeStruct(shape, np.float32)
    shape = jax.eval_shape(name.back, layer).shape
    together = not isinstance(name.layers[0], str)
    result.update(dict.fromkeys(_leaves(name), shape[together:]))
  return result


def check(
  names: Sequence[Name],
  tensors: Mapping[str, Any],
  shapes: Params,
):
  """Refuses a torch state dict that is not the model's.

  Raises:
    NameTableError: lists all missing, unknown and misshaped tensors at once.
  """
  expected = torch_shapes(names, shapes)
  _refuse(
    {
      "missing": expected.keys() - tensors.keys(),
      "unknown": tensors.keys() - expected.keys(),
      "of another shape": {
        f"{t} {tuple(tensors[t].shape)}, the model's is {shape}"
        for t, shape in expected.items()
        if t in tensors and tuple(tensors[t].shape) != shape
      },
    }
  )


def to_ours(
  names: Sequence[Name],
  tensors: Mapping[str, Any],
  shapes: Params,
) -> Params:
  """Our parameters from a torch state dict, as numpy in `shapes`' dtypes.

  Raises:
    NameTableError: as `check`.
  """
  check(names, tensors, shapes)
  return map_names(
    names,
    shapes,
    lambda name, struct: np.ascontiguousarray(
      name.read(tensors, (), struct.dtype)
    ),
  )


def to_mesh(
  names: Sequence[Name],
  tensors: Mapping[str, Any],
  shapes: Params,
  shardings: Params,
) -> Params:
  """`to_ours` as arrays on a mesh; a device's part is read for it alone."""
  check(names, tensors, shapes)
  places = flat(shardings)
  return map_names(
    names,
    shapes,
    lambda name, struct: jax.make_array_from_callback(
      struct.shape,
      places[name.ours],
      lambda at: name.read(tensors, at, struct.dtype),
    ),
  )


def map_names(
  names: Sequence[Name], shapes: Params, f: Callable[[Name, Any], Any]
) -> Params:
  """The tree of `f(name, shape)` of every parameter."""
  by_path = {name.ours: name for name in names}
  return traverse_util.path_aware_map(
    lambda path, struct: f(by_path[_dotted(path)], struct), shapes
  )


def stored_dtypes(
  names: Sequence[Name], tensors: Mapping[str, Any], shapes: Params
) -> Params:
  """`shapes` with the dtypes in which the tensors are stored."""
  return map_names(
    names,
    shapes,
    lambda name, struct: jax.ShapeDtypeStruct(
      struct.shape, np.result_type(*{tensors[t].dtype for t in _leaves(name)})
    ),
  )


@dataclasses.dataclass(frozen=True)
class Made:
  """A tensor that is made when numpy asks for it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  make: Callable[[], np.ndarray]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.ascontiguousarray(self.make(), dtype)


def torch_tensors(names: Sequence[Name], params: Params) -> dict[str, Made]:
  """The torch state dict of our parameters, with their dtypes.

  A tensor is read from `params`, arrays or whatever gives one when indexed,
  when it is asked for.

  Raises:
    NameTableError: as `torch_shapes`.
  """
  shapes, arrays, result = torch_shapes(names, params), flat(params), {}
  for name in names:
    x = arrays[name.ours]
    for i, torch in enumerate(name.layers):
      at = i if name.stacked else ...
      layer = lambda name=name, x=x, at=at: name.back(np.asarray(x[at]))
      if isinstance(torch, str):
        result[torch] = Made(shapes[torch], x.dtype, layer)
        continue
      for j, t in enumerate(torch):
        part = lambda layer=layer, j=j: layer()[j]
        result[t] = Made(shapes[t], x.dtype, part)
  return result


def to_torch(names: Sequence[Name], params: Params) -> dict[str, np.ndarray]:
  """The torch state dict of our parameters, with their dtypes.

  Raises:
    NameTableError: as `torch_shapes`.
  """
  return {t: np.asarray(x) for t, x in torch_tensors(names, params).items()}


def _dotted(path: tuple) -> str:
  return ".".join(map(str, path))


def _leaves(name: Name) -> Iterator[str]:
  for torch in name.layers:
    yield from (torch,) if isinstance(torch, str) else torch


def _refuse(problems: Mapping[str, Collection[str]]):
  """Raises one error that lists whatever was found."""
  lines = [
    f"{len(found)} {what}:\n  " + "\n  ".join(sorted(found))
    for what, found in problems.items()
    if found
  ]
  if lines:
    raise NameTableError(
      "These tensors do not belong to this model; compare the model's config "
      "with the checkpoint's.\n" + "\n".join(lines)
    )
