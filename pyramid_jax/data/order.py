"""The endless order of samples: which clip comes p-th, and hashes to draw from.

Everything is a function of integers (a counter-based hash, no generator with
a state), so any position can be asked for, in any order, on any machine.

A *pass* goes once over the mixture: the source that its weight makes scarce
is seen once, the others more or less often. Every source goes through its own
epochs, each sample once an epoch, in another order every time.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pyramid_jax.config import ConfigError

ROUNDS = 6  # of the permutation; 4 are enough for a random look


def integers(*key: int | np.ndarray) -> np.ndarray:
  """Hashes integers (arrays broadcast) to uniform uint64 (SplitMix64)."""
  return _mixed(np.uint64(len(key)), *key)


def _mixed(state: np.ndarray, *parts: int | np.ndarray) -> np.ndarray:
  """A hash that has taken in more parts."""
  with np.errstate(over="ignore"):
    for part in parts:
      state = state + np.asarray(part).astype(np.uint64)
      state = state + np.uint64(0x9E3779B97F4A7C15)
      state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
      state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
      state = state ^ (state >> np.uint64(31))
  return state


def uniform(*key: int | np.ndarray) -> np.ndarray:
  """Hashes integers to float64 in [0, 1)."""
  return (integers(*key) >> np.uint64(11)) * 2.0**-53


def permute(index: np.ndarray, size: int, *key: int | np.ndarray) -> np.ndarray:
  """A pseudo-random permutation of range(size), evaluated at `index`.

  A Feistel network over the next power of four; what falls outside `size`
  goes through it again until it is inside.
  """
  half = np.uint64(max((int(size - 1).bit_length() + 1) // 2, 1))
  mask = (np.uint64(1) << half) - np.uint64(1)
  out = np.array(index).astype(np.uint64)
  # hashes of (*key, turn, right), of which the key's part is the same always
  state = np.broadcast_to(_mixed(np.uint64(len(key) + 2), *key), out.shape)
  outside = np.ones(out.shape, bool)
  while outside.any():
    x, given = out[outside], state[outside]
    left, right = x >> half, x & mask
    for turn in range(ROUNDS):
      noise = _mixed(given, turn, right)
      left, right = right, left ^ (noise & mask)
    out[outside] = (left << half) | right
    outside = out >= np.uint64(size)
  return out.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Sources of given sizes, mixed by weight.

  Attributes:
    sizes: samples of each source.
    weights: share of the samples drawn from each; need not sum to 1, and 0
      leaves a source out.
    seed: of the order.

  Raises:
    ConfigError: a negative weight, or all of them 0.
  """

  sizes: tuple[int, ...]
  weights: tuple[float, ...]
  seed: int = 0

  def __post_init__(self):
    weights = self.weights
    if len(self.sizes) != len(weights) or min(weights) < 0 or not sum(weights):
      raise ConfigError(
        f"The weights of the sources are {weights}; give {len(self.sizes)}, "
        "none negative and not all 0. A source of weight 0 is left out."
      )

  @property
  def counts(self) -> tuple[int, ...]:
    """Samples of each source in a pass."""
    share = np.array(self.weights) / sum(self.weights)
    used = share > 0
    total = np.max(np.array(self.sizes)[used] / share[used])
    return tuple(max(1, round(total * s)) if s else 0 for s in share)

  @property
  def length(self) -> int:
    """Samples in a pass."""
    return sum(self.counts)

  def at(
    self, turn: int, positions: Sequence[int] | np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(source, epoch, sample) at positions of the `turn`-th pass."""
    counts, sizes = np.array(self.counts), np.array(self.sizes)
    ends = np.cumsum(counts)
    place = permute(np.asarray(positions), self.length, self.seed, 0, turn)
    source = np.searchsorted(ends, place, side="right")
    drawn = place - (ends - counts)[source] + turn * counts[source]
    epoch, sample = drawn // sizes[source], drawn % sizes[source]
    for s, size in enumerate(self.sizes):
      mine = source == s
      key = (self.seed, 1 + s, epoch[mine])
      sample[mine] = permute(sample[mine], size, *key)
    return source, epoch, sample
