"""What a compiled program sends and moves, read from its text.

A compiler's own figures count the body of a loop once; here it counts as often
as the loop runs.
"""

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from pyramid_jax.cost.groups import groups
from pyramid_jax.cost.network import Network

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
# of which the first half is a tuple of what goes in and what comes out
ASYNC = ("all-gather", "reduce-scatter", "all-to-all", "collective-permute")
STARTS = {f"{kind}-start" for kind in ASYNC}
# what reads and writes no memory by itself
FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
  "conditional", "call", "after-all", "partition-id", "replica-id", "iota",
  "opt-barrier", "custom-call-done",
}  # fmt: skip
BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_TUPLE = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_LINE = re.compile(
  rf"^\s+(ROOT )?%?([\w.\-]+) = ({_TUPLE}|\S+) ([a-z][a-z0-9\-]*)\((.*)$"
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
  r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
  r"|branch_computations=\{([^}]*)\}"
)


class Line(NamedTuple):
  """An instruction."""

  name: str
  shape: str
  kind: str
  rest: str  # operands and attributes
  root: bool

  @property
  def operands(self) -> list[str]:
    """Names of its operands."""
    depth = 1
    for i, c in enumerate(self.rest):
      depth += (c == "(") - (c == ")")
      if not depth:
        return re.findall(r"%([\w.\-]+)", self.rest[:i])
    return []


class Collective(NamedTuple):
  """A kind of exchange, all of a step, per device.

  Attributes:
    kind: such as "all-gather".
    group: devices that exchange with each other, 2 of a permutation; 0 if it
      is not said.
    count: how often it runs.
    size: bytes of its larger side: what an all-gather gives, what a
      reduce-scatter takes.
    sent: bytes that a device sends, as a ring does it; of an all-to-all, to
      each other member its part.
    far: whether a group has members in several islands.
    near: members of a far group in each of its islands; 1 of others.
    links: share of a device's fast links that serves it, on the whole.
  """

  kind: str
  group: int
  count: float
  size: float
  sent: float
  far: bool = False
  near: float = 1.0
  links: float = 1.0


def bytes_of(shape: str, vector_memory: bool = True) -> float:
  """Of an array or a tuple of them, without padding.

  `vector_memory`: whether arrays that the compiler keeps on the chip, outside
  of the HBM (memory space 1), count as well.
  """
  total = 0.0
  for name, dims, layout in _SHAPE.findall(shape):
    if not vector_memory and "S(1)" in layout:
      continue
    digits = re.search(r"\d+", name)
    bits = BITS.get(name, int(digits[0]) if digits else 32)
    total += bits / 8 * math.prod(int(d) for d in dims.split(",") if d)
  return total


class Module:
  """A compiled program's computations."""

  def __init__(self, text: str):
    self.computations: dict[str, list[Line]] = {}
    self.entry = ""
    lines: list[Line] = []
    for row in text.splitlines():
      if head := _HEAD.match(row):
        lines = self.computations.setdefault(head[2], [])
        if head[1]:
          self.entry = head[2]
      elif match := _LINE.match(row):
        root, name, shape, kind, rest = match.groups()
        if kind == "fusion-start":  # (what goes in, what comes out, signal)
          kind, shape = "fusion", _members(shape)[1].strip()
        lines.append(Line(name, shape, kind, rest, bool(root)))

  def runs(self) -> Iterator[tuple[str, float]]:
    """(computation, how often it runs); those inside fusions not."""
    stack = [(self.entry, 1.0)]
    while stack:
      name, times = stack.pop()
      yield name, times
      for line in self.computations.get(name, ()):
        if line.kind == "fusion" or line.kind in COLLECTIVES:
          continue
        more = times * (self.trips(line) if line.kind == "while" else 1.0)
        if line.kind in ("while", "conditional", "call", "async-start"):
          called = self.called(line)
          share = len(called) if line.kind == "conditional" else 1
          stack += [(c, more / share) for c in called]

  def called(self, line: Line) -> list[str]:
    """Computations that an instruction runs."""
    found = []
    for one, many in _CALLED.findall(line.rest):
      names = [one] if one else re.findall(r"[\w.\-]+", many)
      found += [n for n in names if n in self.computations]
    return found

  def trips(self, line: Line) -> int:
    """How often a loop runs: known to the compiler, or its only bound."""
    known = re.search(r'known_trip_count\D+"?(\d+)', line.rest)
    if known:
      return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line.rest)
    bounds = [
      int(match[1])
      for x in self.computations.get(condition[1], ())
      if x.kind == "constant" and (match := re.match(r"(\d+)\)", x.rest))
    ]
    return max(bounds, default=1)

  def collectives(self, network: Network = Network()) -> list[Collective]:  # noqa: B008  immutable
    """What the devices exchange in a step, by kind and group.

    `network`: of the devices; by default all are joined alike.
    """
    ways = functools.cache(network.ways)
    total = collections.defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for name, times in self.runs():
      for line in self.computations.get(name, ()):
        for kind, size, found in self._exchanges(line):
          far, near, links = ways(tuple(map(tuple, found)))
          group = max(map(len, found), default=0)
          entry = total[kind, group, far, near]
          whole = not group or kind == "collective-permute"
          share = 1.0 if whole else (group - 1) / group
          entry[0] += times
          entry[1] += times * size
          sent = times * size * share * (2 if kind == "all-reduce" else 1)
          entry[2] += sent
          entry[3] += sent / links
    return [
      Collective(*key[:2], *sums, *key[2:], sums[-1] / busy if busy else 1.0)
      for key, (*sums, busy) in sorted(total.items())
    ]

  def _exchanges(
    self, line: Line
  ) -> Iterator[tuple[str, float, list[list[int]]]]:
    """(kind, bytes, groups) of an instruction or a fusion's."""
    kind = line.kind.removesuffix("-start")
    if kind in COLLECTIVES:
      size, found = bytes_of(line.shape), groups(line.rest)
      if kind in ASYNC and line.kind.endswith("-start"):
        # of all that is sent together: (operands, results, signals)
        size = max(map(bytes_of, _members(line.shape)))
      elif kind == "reduce-scatter":
        size *= max(map(len, found), default=0)
      yield kind, size, found
    elif line.kind == "fusion":
      inside = [x for c in self.called(line) for x in self.computations[c]]
      # TPUs: an all-reduce of which each keeps a part
      sliced = any(x.root and x.kind == "dynamic-slice" for x in inside)
      for x in inside:
        for kind, size, found in self._exchanges(x):
          whole = kind == "all-reduce" and sliced
          yield ("reduce-scatter" if whole else kind), size, found

  def traffic(self) -> float:
    """Bytes that a device reads from and writes to its HBM in a step."""
    return sum(
      times * sum(map(self._moves(name), self.computations.get(name, ())))
      for name, times in self.runs()
    )

  def _moves(self, computation: str):
    shapes = self._shapes(computation)
    size = functools.partial(bytes_of, vector_memory=False)

    def moved(line: Line) -> float:
      if line.kind in FREE or line.kind.endswith("-done"):
        return 0.0
      if line.kind in ("copy-start", "slice-start"):  # (to, from, signal)
        return sum(size(s) for s in _parts(line.shape)[:2])
      if line.kind in ("dynamic-slice", "slice", "gather"):
        return 2 * size(line.shape)
      if line.kind in STARTS:  # (what goes in, what comes out)
        return size(line.shape)
      operands = [shapes.get(x, "") for x in line.operands]
      if line.kind == "dynamic-update-slice":
        return 2 * size(operands[1])
      if line.kind == "fusion" and (called := self.called(line)):
        return self._fusion(called[0], line, operands)
      return size(line.shape) + sum(map(size, operands))

    return moved

  def _fusion(self, called: str, line: Line, operands: list[str]) -> float:
    """What a fusion reads of its operands and writes of its results."""
    total = 0.0
    for x in self.computations[called]:
      if x.kind == "parameter":
        number = int(x.rest.split(")")[0])
        whole = operands[number] if number < len(operands) else x.shape
        if bytes_of(whole, vector_memory=False):
          total += min(self._read(called, x.name), bytes_of(whole))
    results = zip(_parts(line.shape), self._results(called), strict=True)
    for shape, written in results:
      if bytes_of(shape, vector_memory=False):
        total += written
    return total

  def _read(self, computation: str, name: str) -> float:
    """Bytes that are read of an array: of what is sliced, the slices."""
    total = 0.0
    for user in self._users(computation)[name]:
      if user.kind in ("dynamic-slice", "slice"):
        total += bytes_of(user.shape)
      elif user.kind == "bitcast":
        total += self._read(computation, user.name)
      elif user.kind == "fusion" and (called := self.called(user)):
        for i, operand in enumerate(user.operands):
          if operand == name:
            total += self._read(called[0], self._parameter(called[0], i))
      elif user.kind != "dynamic-update-slice" or user.operands[0] != name:
        return bytes_of(self._shapes(computation)[name])
    return total

  def _results(self, computation: str) -> list[float]:
    """Bytes that are written of each result: where in place, the part."""
    lines = {x.name: x for x in self.computations[computation]}
    root = next(x for x in lines.values() if x.root)

    def written(line: Line) -> float:
      if line.kind == "bitcast" and line.operands[0] in lines:
        return written(lines[line.operands[0]])
      if line.kind == "dynamic-update-slice":
        return bytes_of(lines[line.operands[1]].shape)
      if line.kind == "fusion" and (called := self.called(line)):
        return sum(self._results(called[0]))
      return bytes_of(line.shape)

    if root.kind == "tuple":
      return [written(lines[name]) for name in root.operands]
    if root.kind == "fusion" and (called := self.called(root)):
      return self._results(called[0])
    if root.shape.startswith("("):
      return [bytes_of(part) for part in _parts(root.shape)]
    return [written(root)]

  def _parameter(self, computation: str, number: int) -> str:
    """The name of a computation's parameter."""
    return next(
      x.name
      for x in self.computations[computation]
      if x.kind == "parameter" and int(x.rest.split(")")[0]) == number
    )

  @functools.cache  # noqa: B019  a module lives briefly
  def _users(self, computation: str) -> dict[str, list[Line]]:
    users = collections.defaultdict(list)
    for line in self.computations.get(computation, ()):
      for name in dict.fromkeys(line.operands):
        users[name].append(line)
    return users

  @functools.cache  # noqa: B019  a module lives briefly
  def _shapes(self, computation: str) -> dict[str, str]:
    return {x.name: x.shape for x in self.computations.get(computation, ())}

  def largest(self, count: int = 8) -> list[tuple[float, str, str]]:
    """(bytes, shape, operation) of the largest arrays the program makes."""
    best: dict[str, tuple[float, str, str]] = {}
    for name, _ in self.runs():
      for line in self.computations.get(name, ()):
        if line.kind in FREE - {"parameter"} or line.shape.startswith("("):
          continue
        shape = re.sub(r"\{[^}]*\}", "", line.shape)
        what = re.search(r'op_name="([^"]*)"', line.rest)
        what = what[1].replace("\\'", "'") if what else line.kind
        best.setdefault(shape, (bytes_of(shape), shape, what))
    return sorted(best.values(), reverse=True)[:count]


def _parts(shape: str) -> list[str]:
  """The arrays of a shape."""
  return [m[0] for m in _SHAPE.finditer(shape)]


def _members(shape: str) -> list[str]:
  """The members of a tuple, which may be tuples; an array alone is its own."""
  members, depth = [""], 0
  for c in shape.removeprefix("(").removesuffix(")"):
    if c == "," and not depth:
      members.append("")
      continue
    depth += (c in "([{") - (c in ")]}")
    members[-1] += c
  return members
