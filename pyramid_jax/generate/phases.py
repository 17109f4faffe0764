"""Models that stay in memory or take turns, and what each phase cost."""

import contextlib
import dataclasses
import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import jax

T = TypeVar("T")


class Part(Generic[T]):
  """A model that stays, or is loaded for every use and dropped after it."""

  def __init__(self, load: Callable[[], T], stays: bool):
    self.stays, self._load = stays, load
    self._value = load() if stays else None

  @property
  def value(self) -> T:
    """The model; loaded now, if it does not stay."""
    return self._value if self.stays else self._load()

  def release(self):
    """To be called when nothing refers to a model that does not stay."""
    if not self.stays:
      gc.collect()  # what refers to itself


@dataclasses.dataclass
class Phase:
  """Seconds in all, and the largest memory in use so far, in bytes."""

  seconds: float = 0.0
  peak: int = 0


class Phases(dict[str, Phase]):
  """What each phase took, over all calls.

  The peak is that of the device, or of the process on CPU. A peak is never
  smaller than that of an earlier phase: devices count from the start of the
  program. A phase inside another stops the other's clock.
  """

  def __init__(self):
    super().__init__()
    self._running: list[str] = []
    self._since = 0.0

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds what the block takes to a phase."""
    self.setdefault(name, Phase())
    self._count()
    self._running.append(name)
    try:
      yield
    finally:
      self._count()
      self._running.pop()
      self[name].peak = max(self[name].peak, peak_memory())

  def _count(self):
    """Gives the time since the last change to the innermost phase."""
    now = time.monotonic()
    if self._running:
      self[self._running[-1]].seconds += now - self._since
    self._since = now

  def __str__(self) -> str:
    return ", ".join(
      f"{name} {p.seconds:.1f} s ({p.peak / 2**30:.2f} GiB)"
      for name, p in self.items()
    )


def peak_memory() -> int:
  """Bytes in use at most: on the first device, or by the process on CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
