"""Which clips or images the batch of each VAE training step has, by number.

A step of a phase that mixes images has a batch of images if a hash of (seed,
step) says so. Rows are numbered over the whole run, clips and images together.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from pyramid_jax.config import ConfigError, Phase
from pyramid_jax.data import order

IMAGES = 4  # what a hash is drawn for, beside those of data/clips.py


class Schedule:
  """The batches of a run, without their pixels.

  The last phase goes on for ever.

  Raises:
    ConfigError: a phase that cannot be.
  """

  def __init__(self, phases: Sequence[Phase], seed: int):
    for phase in phases:
      _check(phase)
    self.phases, self.seed = tuple(phases), seed
    self.ends = list(itertools.accumulate(p.steps for p in phases))
    self.total = self.ends[-1]
    images = self._images(np.arange(self.total))
    self._before = np.concatenate([[0], np.cumsum(images)])  # image steps
    self._first_rows = [0]
    for p, end in enumerate(self.ends):
      clips, images = self._rows_before(p, end)
      self._first_rows.append(self._first_rows[-1] + clips + images)

  def phase(self, step: int) -> int:
    """Number of the phase that a step belongs to."""
    found = int(np.searchsorted(self.ends, step, side="right"))
    return min(found, len(self.ends) - 1)

  def has_images(self, step: int) -> bool:
    """Whether the batch of a step is images."""
    return bool(self._images(np.array([step]))[0])

  def shape(self, step: int) -> Phase:
    """The batch of a step: how many clips, of how many frames."""
    phase = self.phases[self.phase(step)]
    return phase.of_images if self.has_images(step) else phase

  def rows(self, step: int) -> range:
    """Numbers of the clips or images in a step's batch, over the run."""
    p = self.phase(step)
    first = self._first_rows[p] + sum(self._rows_before(p, step))
    return range(first, first + self.shape(step).batch)

  def position(self, step: int) -> int:
    """Clips (or images, if it has some) of its phase before a step's first."""
    return self._rows_before(self.phase(step), step)[self.has_images(step)]

  def steps_like(self, images: bool, start: int, count: int) -> list[int]:
    """The first steps from `start` on with a batch of images, or of clips."""
    steps = itertools.count(start)
    of_kind = (n for n in steps if self.has_images(n) == images)
    return list(itertools.islice(of_kind, count))

  def _rows_before(self, p: int, step: int) -> tuple[int, int]:
    """(clips, images) of phase p in the steps before one of it."""
    phase = self.phases[p]
    begun = self.ends[p - 1] if p else 0
    images = self._count(step) - self._count(begun)
    clips = step - begun - images
    return clips * phase.batch, images * phase.of_images.batch

  def _count(self, step: int) -> int:
    """Image steps before a step."""
    known = int(self._before[min(step, self.total)])
    return known + int(self._images(np.arange(self.total, step)).sum())

  def _images(self, steps: np.ndarray) -> np.ndarray:
    ratios = np.array([p.image_ratio for p in self.phases])
    p = np.searchsorted(self.ends[:-1], steps, side="right")
    return order.uniform(self.seed, steps, IMAGES) < ratios[p]


def _check(phase: Phase):
  if phase.frames % 8 != 1:
    raise ConfigError(
      f"a phase's frames {phase.frames} are not 8 n + 1; nearest: "
      f"{max(round((phase.frames - 1) / 8), 0) * 8 + 1}."
    )
  if not 0 <= phase.image_ratio <= 1:
    raise ConfigError(
      f"a phase's image_ratio {phase.image_ratio:g} is a share of its steps, "
      "from 0 to 1."
    )
  if phase.images < 0:
    raise ConfigError(
      f"a phase's images {phase.images} are a batch; 0 stands for batch x "
      "frames."
    )
