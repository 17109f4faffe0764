"""Steps whose loss stands out, so that their samples can be looked at."""

import collections
import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

WINDOW = 100  # losses that the median is taken over
LEAST = 20  # before there are so many, no step stands out
NAMED = 8  # samples that a line of text names; the record has all


class Spike(NamedTuple):
  """A step whose loss or gradient is not finite, or whose loss is high.

  Attributes:
    step: counted from 1.
    name: of the metric that is compared.
    value: of that metric.
    finite: whether the loss and its gradient are.
    median: of the losses before it; None of too few.
    rows: of its batch, counted over the run.
    samples: names of the samples in its batch.
  """

  step: int
  name: str
  value: float
  finite: bool
  median: float | None
  rows: range
  samples: Sequence[str]

  def of(self) -> tuple[list[int], list[str]]:
    """First and last of its rows, and its samples."""
    return [self.rows.start, self.rows.stop - 1], list(self.samples)

  def record(self) -> dict[str, Any]:
    """What metrics.jsonl keeps of it."""
    rows, samples = self.of()
    return {
      "step": self.step,
      # JSON has no NaN
      "spike": self.value if math.isfinite(self.value) else None,
      "finite": self.finite,
      "median": self.median,
      "rows": rows,
      "samples": samples,
    }

  def __str__(self) -> str:
    what = "loss or gradient is not finite"
    if self.finite:
      ratio = self.value / self.median
      what = f"{self.name} {self.value:.4g} is {ratio:.1f} times its median"
    count = len(self.samples)
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return (
      f"step {self.step}: {what}; rows {self.rows.start} to "
      f"{self.rows.stop - 1}: {', '.join(self.samples[:NAMED])}{more}"
    )


class Spikes:
  """Compares every loss with the running median of those before it.

  Of a VAE the likelihood of the pixels is compared, `nll`: a discriminator's
  part of the loss has either sign. Where the median is not above 0 there is
  nothing to compare with.

  Args:
    factor: a loss above `factor` times the median stands out; 0: none does,
      unless it is not finite.
    rows: which rows batch n, that of step n + 1, has.
    samples: which samples.
    kind: of batch n; losses are compared with those of their kind alone.
  """

  def __init__(
    self,
    factor: float = 0.0,
    rows: Callable[[int], range] = lambda n: range(0),
    samples: Callable[[int], Sequence[str]] = lambda n: (),
    kind: Callable[[int], Hashable] = lambda n: None,
  ):
    self.factor, self.rows, self.samples = factor, rows, samples
    self.kind = kind
    self.values = collections.defaultdict(
      lambda: collections.deque(maxlen=WINDOW)
    )

  def look(self, n: int, metrics: Mapping[str, float]) -> Spike | None:
    """The spike of batch n, the next of the run, if it is one."""
    name = "nll" if "nll" in metrics else "loss"
    value, before = float(metrics[name]), self.values[self.kind(n)]
    median = statistics.median(before) if len(before) >= LEAST else None
    checked = name, "loss", "grad_norm"
    finite = all(math.isfinite(metrics.get(key, 0.0)) for key in checked)
    if finite:
      before.append(value)
      known = median is not None and median > 0 and self.factor
      if not known or value <= self.factor * median:
        return None
    rows, samples = self.rows(n), self.samples(n)
    return Spike(n + 1, name, value, finite, median, rows, samples)
