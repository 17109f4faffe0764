"""Which devices exchange with each other, read from a program's text."""

import math
import re

import numpy as np

_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_LISTS = re.compile(
  r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]+\})\}"
)
_RANGE = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=" + _IOTA)
_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\]"
  rf"(?:, device_ids=\((?:{_IOTA}|([\d,]+))\))? \{{([^}}]*)\}}"
)


def groups(attributes: str) -> list[list[int]]:
  """The devices that exchange with each other; none if it is not said.

  Of a permutation, the pairs of a sender and a receiver.
  """
  if m := _LISTS.search(attributes):
    return [_numbers(g) for g in re.findall(r"\{([\d,]+)\}", m[1])]
  if m := _RANGE.search(attributes):
    return _permuted(m[3], m[4]).reshape(int(m[1]), int(m[2])).tolist()
  if m := _MESH.search(attributes):
    sizes = {n: int(k) for n, k in re.findall(r"'(\w+)'=(\d+)", m[1])}
    devices = np.arange(math.prod(sizes.values()))
    if m[2]:
      devices = _permuted(m[2], m[3])
    elif m[4]:
      devices = np.array(_numbers(m[4]))
    return _along(sizes, devices, m[5])
  return []


def _numbers(text: str) -> list[int]:
  return [int(n) for n in text.split(",")]


def _permuted(shape: str, order: str | None) -> np.ndarray:
  """0, 1, ... in a shape whose dimensions then change their order."""
  dims = _numbers(shape)
  numbers = np.arange(math.prod(dims)).reshape(dims)
  return numbers.transpose(_numbers(order) if order else None).ravel()


def _along(
  sizes: dict[str, int], devices: np.ndarray, axes: str
) -> list[list[int]]:
  """Groups of a mesh's devices that differ along some axes alone.

  An axis may be a part of one: "'x':(2)3" are the 3 steps in each of 2 parts.
  """
  shape = tuple(sizes.values())
  place = np.indices(shape).reshape(len(shape), -1)
  for name, before, count in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes):
    step = 1
    if count:
      step = sizes[name] // (int(before) * int(count))
    here = place[list(sizes).index(name)]
    here -= here // step % int(count or sizes[name]) * step
  key = np.ravel_multi_index(tuple(place), shape)
  count = len(np.unique(key))
  return devices[np.argsort(key, kind="stable")].reshape(count, -1).tolist()
