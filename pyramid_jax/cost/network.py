"""How a machine's devices are joined, and what a group of them has of it.

A TPU's links join it to its neighbours in a torus, two for each dimension. A
group whose members lie along one dimension has the links of that one, however
many the chip has. Legend: n devices, d dimensions of the torus.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyramid_jax.cost.chips import Target

Groups = Sequence[Sequence[int]]
# A slice closes its torus where each of three dimensions is a multiple of 4; in
# two dimensions, those that are as long as a pod's (docs.cloud.google.com/tpu).
CUBE, POD = 4, 16


@dataclasses.dataclass(frozen=True)
class Network:
  """The devices by their numbers in the program.

  Attributes:
    island: devices with neighbouring numbers that the fast network joins.
    places: [n, d] in the torus; None where a switch joins all alike.
  """

  island: float = math.inf
  places: np.ndarray | None = None

  def is_far(self, groups: Groups) -> bool:
    """Whether a group has members in several islands."""
    return any(
      len({device // self.island for device in group}) > 1 for group in groups
    )

  def ways(self, groups: Groups) -> tuple[bool, float, float]:
    """(`is_far`, `near` or 1 where none is far, `links`) of groups."""
    far = self.is_far(groups)
    return far, self.near(groups) if far else 1.0, self.links(groups)

  def near(self, groups: Groups) -> float:
    """Members of a group in each island that it reaches; the fewest of all."""
    islands = lambda group: {device // self.island for device in group}
    return min(
      (len(group) / len(islands(group)) for group in groups), default=1.0
    )

  def links(self, groups: Groups) -> float:
    """Share of a device's links that serves an exchange within its group.

    Of a dimension that the group has whole and that is closed, both links; of
    one that it has a part of, one; of members that lie s apart, which share
    the way with other groups, an s-th. A group that fills no box of the torus
    has one link, or its share of it. Of several groups the median counts.

    Args:
      groups: none if all devices are one.
    """
    if self.places is None:
      return 1.0
    each = groups or [range(len(self.places))]
    shares = [self._of_group(self.places[list(group)]) for group in each]
    return float(np.median(shares))

  def _of_group(self, places: np.ndarray) -> float:
    shape, places = self.places.max(0) + 1, np.unique(places, axis=0)
    if len(places) < 2:  # the cores of one chip have no link between them
      return 1.0
    lines = [np.unique(here) for here in places.T]
    if math.prod(map(len, lines)) > len(places):
      found = 1 / self._apart(places, shape)
    else:
      found = sum(
        _of_line(line, length, closed)
        for line, length, closed in zip(
          lines, shape, is_closed(shape), strict=True
        )
      )
    return found / (2 * len(shape))

  @staticmethod
  def _apart(places: np.ndarray, shape: np.ndarray) -> int:
    """Links between the member that is farthest from all others and those."""
    away = np.abs(places[:, None] - places)
    around = np.where(is_closed(shape), shape - away, away)
    hops = np.minimum(away, around).sum(-1)
    return np.where(hops, hops, hops.max()).min(1).max()


def _of_line(line: np.ndarray, length: int, closed: bool) -> float:
  """Links along a dimension of which a group has these places."""
  if len(line) < 2:
    return 0.0
  gaps = np.diff(line, append=[line[0] + length] if closed else [])
  apart = gaps.min()
  ring = closed and apart * len(line) == length
  return (2 if ring else 1) / apart


def is_closed(shape: Sequence[int]) -> list[bool]:
  """Of which dimensions of a torus the ends are joined."""
  if len(shape) == 2:
    return [length == POD for length in shape]
  return [all(length % CUBE == 0 for length in shape)] * len(shape)


def of_devices(target: Target, devices: Sequence[Any]) -> Network:
  """The network of a slice's devices, in the order of the program's mesh."""
  if not (target.chip and target.chip.torus):
    return Network(target.fast)
  places = np.array([d.coords for d in devices])
  return Network(target.fast, places[:, : target.chip.torus])


def in_order(target: Target) -> Network:
  """That of a slice's devices, numbered along one dimension after the other."""
  if not (target.chip and target.chip.torus):
    return Network(target.fast)
  shape = [int(n) for n in target.topology.partition(":")[2].split("x")]
  numbers = np.arange(math.prod(shape)).repeat(target.chip.devices)
  return Network(
    target.fast, np.stack(np.unravel_index(numbers, shape, order="F"), -1)
  )


def along(mesh: dict[str, int], axis: str, devices: int) -> list[list[int]]:
  """The groups of an axis of a mesh; of those of several slices, in one."""
  numbers = np.arange(math.prod(mesh.values())).reshape([*mesh.values()])
  last = np.moveaxis(numbers, list(mesh).index(axis), -1)
  return (last.reshape(-1, mesh[axis]) % devices).tolist()
