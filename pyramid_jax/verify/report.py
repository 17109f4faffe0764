"""Ours beside the reference: one line an array, and what was left out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyramid_jax.verify.file import Reference

GRADIENT = 1e-3  # limit
# A gradient much smaller than the largest of all is noise of the reference.
FLOOR = 0.01


@dataclasses.dataclass(frozen=True)
class Line:
  """One array.

  Attributes:
    key: of the file.
    shape: of the array.
    error: largest absolute difference.
    relative: that, as a part of `scale`.
    limit: of `relative`.
    exact: whether the scale is 1, so that the limit is absolute.
  """

  key: str
  shape: tuple[int, ...]
  error: float
  relative: float
  limit: float
  exact: bool

  @property
  def passed(self) -> bool:
    """Whether the error is within its limit; what is not finite is not."""
    return bool(self.relative <= self.limit)

  def __str__(self) -> str:
    verdict = "ok" if self.passed else "FAILED"
    shape = "x".join(map(str, self.shape)) or "scalar"
    unit = "abs" if self.exact else "of max"
    return (
      f"{self.key:<52} {shape:<16} {self.error:9.2e} {self.relative:9.2e} "
      f"{self.limit:8.1e} {unit:<6} {verdict}"
    )


HEAD = (
  f"{'array':<52} {'shape':<16} {'max error':>9} {'relative':>9} "
  f"{'limit':>8} {'':<6} verdict"
)


class Report:
  """What was compared of a file.

  Attributes:
    file: the reference.
    lines: of outputs, gradients and intermediates, in order.
    parted: the first intermediate that was beyond its limit, or "".
  """

  def __init__(
    self,
    file: Reference,
    *,
    tolerance: float | None = None,
    mid: bool = False,
    show: Callable[[Line], None] = lambda line: None,
  ):
    self.file, self.lines, self.parted = file, [], ""
    self._tolerance, self._mid, self._show = tolerance, mid, show

  def compare(
    self, key: str, ours: Any, limit: float, scale: float | None = None
  ):
    """Adds a line for an array of the file; shapes must be equal.

    Args:
      key: of the file.
      ours: the array that should equal it.
      limit: of the error, unless the report has one for all.
      scale: what the error is divided by; None: the array's largest value.
    """
    self._add(key, ours, limit, scale)

  def compare_gradients(self, prefix: str, ours: Mapping[str, Any]):
    """Adds a line for each gradient under a prefix, by its torch name.

    One that is nothing but rounding is held against the largest of all.
    """
    theirs = self.file.under(prefix)
    largest = max((np.abs(g).max() for g in theirs.values()), default=0)
    for key, grad in theirs.items():
      scale = max(np.abs(grad).max(), FLOOR * largest)
      self._add(f"{prefix}{key}", ours[key], GRADIENT, scale)

  def wants(self, prefix: str) -> bool:
    """Whether intermediates under a prefix are there and asked for."""
    there = any(key.startswith(prefix) for key in self.file.arrays)
    return self._mid and there and not self.parted

  def middle(
    self, key: str, ours: Callable[[], Any], limit: float = 1e-4
  ) -> None:
    """Compares an intermediate, if they are asked for and none parted yet."""
    if self._mid and key in self.file and not self.parted:
      line = self._add(key, ours(), limit, None)
      self.parted = "" if line.passed else key

  def _add(self, key, ours, limit, scale) -> Line:
    theirs = np.asarray(self.file[key], np.float64)
    ours = np.asarray(ours).astype(np.float64)
    exact = scale == 1
    if scale is None:
      scale = np.abs(theirs).max(initial=0) or 1.0
    error = np.inf  # of another shape, or not a number
    if ours.shape == theirs.shape:
      error = np.abs(ours - theirs).max(initial=0)
      error = np.inf if np.isnan(error) else error
    limit = limit if self._tolerance is None else self._tolerance
    relative = float(error / scale)
    line = Line(key, theirs.shape, float(error), relative, limit, exact)
    self.lines.append(line)
    self._show(line)
    return line

  @property
  def left(self) -> list[str]:
    """Outputs and gradients that nothing was compared with."""
    seen = {line.key for line in self.lines}
    return [
      key
      for key in self.file.arrays
      if key.startswith(("out", "grad/")) and key not in seen
    ]

  @property
  def passed(self) -> bool:
    """Everything was compared, and all of it is within the limits."""
    whole = bool(self.lines) and not self.left
    return whole and all(line.passed for line in self.lines)

  @property
  def worst(self) -> Line:
    """The line nearest to its limit, or farthest beyond."""
    return max(self.lines, key=lambda line: line.relative / (line.limit or 1))

  def summary(self) -> str:
    """The whole file in one line."""
    failed = [line for line in self.lines if not line.passed]
    text = f"{self.file.name}: {len(self.lines) - len(failed)} of "
    text += f"{len(self.lines)} arrays within the limits"
    if self.lines:
      worst = self.worst
      unit = "abs" if worst.exact else "of max"
      text += f"; worst {worst.key} {worst.relative:.1e} {unit}"
    else:
      text += "; NOTHING WAS COMPARED"
    if self.parted:
      text += f"; intermediates part at {self.parted}"
    if self.left:
      text += f"; NOT COMPARED: {', '.join(self.left[:4])}"
      text += f" and {len(self.left) - 4} more" if len(self.left) > 4 else ""
    return text
