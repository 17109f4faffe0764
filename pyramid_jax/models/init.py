"""How parameters start, drawn by numpy on the host.

An initializer is a function (rng, shape) -> float32 array. Drawing on the host
compiles nothing and gives the same values on every mesh and platform.
"""

import math
from collections.abc import Callable

import numpy as np

Init = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  """All 0."""
  return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  """All 1."""
  return np.ones(shape, np.float32)


def normal(std: float) -> Init:
  """Normal with standard deviation `std`."""
  return lambda rng, shape: (
    np.float32(std) * rng.standard_normal(shape, np.float32)
  )


def xavier_uniform(
  rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
  """Uniform in +-sqrt(6 / (in + out)), of a dense kernel [in, out]."""
  bound = math.sqrt(6 / sum(shape))
  return np.float32(bound) * (2 * rng.random(shape, np.float32) - 1)


def flattened(init: Init, split: int) -> Init:
  """`init` of a dense kernel whose inputs are the first `split` dimensions."""

  def draw(rng, shape):
    size = math.prod(shape[:split]), math.prod(shape[split:])
    return init(rng, size).reshape(shape)

  return draw


def fan_in_normal(
  rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
  """Normal that keeps the variance, of a kernel whose last dimension is out."""
  return normal(1 / math.sqrt(math.prod(shape[:-1])))(rng, shape)


def last_frame_normal(
  rng: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
  """Only the tap of a frame itself, the last in time, as `fan_in_normal`.

  A causal network then starts with every frame alone, so what it learns on
  single frames holds for clips.
  """
  kernel = np.zeros(shape, np.float32)
  kernel[-1] = fan_in_normal(rng, shape[1:])
  return kernel


def resampling(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  """Every channel as it is, once or more often: a plain change of resolution.

  With more channels out than in, these are the copies that become new pixels
  or frames, so upsampling starts as repetition and downsampling as picking.
  """
  *taps, size_in, size_out = shape
  kernel = np.zeros(shape, np.float32)
  centre = (-1, *(n // 2 for n in taps[1:]))
  kernel[centre] = np.tile(np.eye(size_in), size_out // size_in)
  return kernel
