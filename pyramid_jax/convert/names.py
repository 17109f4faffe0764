"""Name tables: a torch state dict as our parameters, and back.

A model's table is a list of `Name`, one for each of our parameters. Both
directions read the same list, so that what was loaded can be written again.
Layouts are einops patterns: they only move values, so a round trip is exact.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax import traverse_util

from pyramid_jax.config import UserError
from pyramid_jax.models.pure import Params

SAME = ""
LINEAR = "o i -> i o"
CONV3D = "o i t h w -> t h w i o"
PATCH = "o c p q -> (p q c) o"  # strided convolution -> dense on patches

Torch = str | Sequence["Torch"]


class NameTableError(UserError):
  """Tensors that do not fit the model; the message lists every one."""


@dataclasses.dataclass(frozen=True)
class Name:
  """One of our parameters and what torch calls it.

  Attributes:
    ours: its path, dotted.
    torch: a tensor's name, or a sequence of them (of sequences, if need be):
      these are stacked in new leading dimensions before the layout applies.
    layout: einops pattern from torch to ours; its sides swapped lead back.
    sizes: lengths that the pattern needs to split a dimension.
  """

  ours: str
  torch: Torch
  layout: str = SAME
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def forth(self, x: Any) -> Any:
    """Torch's layout to ours."""
    return rearrange(x, self.layout, **self._sizes()) if self.layout else x

  def back(self, x: Any) -> Any:
    """Our layout to torch's."""
    pattern = " -> ".join(reversed(self.layout.split(" -> ")))
    return rearrange(x, pattern, **self._sizes()) if self.layout else x

  def _sizes(self) -> dict[str, int]:
    return dict(self.sizes)


def stacked(names: Sequence[Name], layers: Sequence[int]) -> list[Name]:
  """The names of one layer for a stack; "{}" in torch's is a layer's number.

  Our parameter gains a leading dimension, in the order of `layers`.
  """

  def number(torch: Torch, i: int) -> Torch:
    if isinstance(torch, str):
      return torch.format(i)
    return tuple(number(t, i) for t in torch)

  def pattern(layout: str) -> str:
    return " -> ".join("layers " + side for side in layout.split(" -> "))

  return [
    dataclasses.replace(
      name,
      torch=tuple(number(name.torch, i) for i in layers),
      layout=pattern(name.layout) if name.layout else SAME,
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
  flat = _flat(shapes)
  ours = [name.ours for name in names]
  torch = [t for name in names for t in _leaves(name.torch)]
  _refuse(
    {
      "parameters without a name": flat.keys() - set(ours),
      "names without a parameter": set(ours) - flat.keys(),
      "parameters named twice": {n for n in ours if ours.count(n) > 1},
      "tensors used twice": {t for t in torch if torch.count(t) > 1},
    }
  )
  result = {}
  for name in names:
    struct = jax.ShapeDtypeStruct(flat[name.ours].shape, np.float32)
    shape = jax.eval_shape(name.back, struct).shape
    depth = _depth(name.torch)
    result.update(dict.fromkeys(_leaves(name.torch), shape[depth:]))
  return result


def to_ours(
  names: Sequence[Name],
  tensors: Mapping[str, np.ndarray],
  shapes: Params,
  ignore: Collection[str] = (),
) -> Params:
  """Our parameters from a torch state dict, as numpy in `shapes`' dtypes.

  Tensors named in `ignore` (buffers that we compute, tied copies) may be
  there or not.

  Raises:
    NameTableError: lists all missing, unknown and misshaped tensors at once.
  """
  expected = torch_shapes(names, shapes)
  _refuse(
    {
      "missing": expected.keys() - tensors.keys(),
      "unknown": tensors.keys() - expected.keys() - set(ignore),
      "of another shape": {
        f"{t} {tuple(tensors[t].shape)}, the model's is {shape}"
        for t, shape in expected.items()
        if t in tensors and tuple(tensors[t].shape) != shape
      },
    }
  )

  def gather(torch: Torch) -> np.ndarray:
    if isinstance(torch, str):
      return np.asarray(tensors[torch])
    return np.stack([gather(t) for t in torch])

  by_path = {name.ours: name for name in names}
  return traverse_util.path_aware_map(
    lambda path, struct: np.ascontiguousarray(
      (name := by_path[_dotted(path)]).forth(gather(name.torch)),
      dtype=struct.dtype,
    ),
    shapes,
  )


def to_torch(names: Sequence[Name], params: Params) -> dict[str, np.ndarray]:
  """The torch state dict of our parameters, with their dtypes.

  Raises:
    NameTableError: as `torch_shapes`.
  """
  torch_shapes(names, params)
  flat = _flat(params)
  result = {}

  def scatter(torch: Torch, x: np.ndarray):
    if isinstance(torch, str):
      result[torch] = np.ascontiguousarray(x)
    else:
      for t, part in zip(torch, x, strict=True):
        scatter(t, part)

  for name in names:
    scatter(name.torch, name.back(np.asarray(flat[name.ours])))
  return result


def _flat(tree: Params) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(tree)
  return {_dotted(path): value for path, value in flat.items()}


def _dotted(path: tuple) -> str:
  return ".".join(map(str, path))


def _leaves(torch: Torch) -> Iterator[str]:
  if isinstance(torch, str):
    yield torch
  else:
    for t in torch:
      yield from _leaves(t)


def _depth(torch: Torch) -> int:
  return 0 if isinstance(torch, str) else 1 + _depth(torch[0])


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
