"""Steps whose loss stands out, so that their samples can be looked at."""

import collections
import math
import statistics

WINDOW = 100  # losses that the median is taken over
LEAST = 20  # before there are so many, no step stands out


class Spikes:
  """Compares every loss with the running median of those before it.

  Args:
    factor: a loss above `factor` times the median stands out; 0: none does,
      unless it is not finite.
  """

  def __init__(self, factor: float):
    self.factor = factor
    self.losses = collections.deque(maxlen=WINDOW)

  @property
  def median(self) -> float | None:
    """Of the finite losses so far, or None of too few."""
    if len(self.losses) < LEAST:
      return None
    return statistics.median(self.losses)

  def stands_out(self, loss: float) -> bool:
    """Whether this loss, the next of the run, is reported."""
    median = self.median
    if not math.isfinite(loss):
      return True
    self.losses.append(loss)
    if median is None or not self.factor:
      return False
    return loss > self.factor * median
