"""The Frechet distance of two sets of features (arXiv:1706.08500).

Each set is taken as a normal distribution with its mean m and covariance S:

  d = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

FID with Inception's features of images; Frechet video distance with whatever
describes a clip. Legend: N samples, D features.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence

import jax
import numpy as np
import scipy.linalg

from pyramid_jax.config import ConfigError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Moments:
  """Count, mean and scatter of features, in float64.

  Attributes:
    count: samples.
    mean: [D].
    scatter: [D, D], the sum of (x - mean) (x - mean)^T.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @classmethod
  def of(cls, features_ND: np.ndarray, names: Sequence[str] = ()) -> "Moments":
    """Those of some samples; `names` say which they are in errors.

    Raises:
      ConfigError: a feature is not finite; names the sample.
    """
    x = np.asarray(features_ND, np.float64)
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
      which = names[bad[0]] if names else f"sample {bad[0]}"
      more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
      raise ConfigError(
        f"the features of {which}{more} are not finite; look at the file, or "
        "leave it out."
      )
    if not len(x):
      return cls(0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2))
    mean = x.mean(0)
    return cls(len(x), mean, (x - mean).T @ (x - mean))

  def __add__(self, other: "Moments") -> "Moments":
    """Those of both sets of samples together."""
    count = self.count + other.count
    if not count:
      return self
    step = other.mean - self.mean
    between = self.count * other.count / count
    return Moments(
      count,
      self.mean + step * (other.count / count),
      self.scatter + other.scatter + between * np.outer(step, step),
    )

  @property
  def covariance(self) -> np.ndarray:
    """[D, D], unbiased.

    Raises:
      ConfigError: fewer than two samples.
    """
    if self.count < 2:
      raise ConfigError(
        f"{self.count} samples have no covariance; give 2 at least, and more "
        f"than the {len(self.mean)} features."
      )
    return self.scatter / (self.count - 1)


def over_processes(mine: Moments) -> Moments:
  """Those of all processes' samples, in every process."""
  if jax.process_count() == 1:
    return mine
  from jax.experimental import multihost_utils

  flat = np.concatenate([[mine.count], mine.mean, mine.scatter.ravel()])
  # arrays of JAX have 32 bits; as pairs of these nothing is rounded
  every = multihost_utils.process_allgather(flat.view(np.uint32))
  D, total = len(mine.mean), None
  for count, *rest in np.asarray(every).view(np.float64):
    mean, scatter = np.split(np.array(rest), [D])
    one = Moments(int(count), mean, scatter.reshape(D, D))
    total = one if total is None else total + one
  return total


def frechet_distance(a: Moments, b: Moments) -> float:
  """The distance of two sets of samples; it is symmetric and at least 0.

  With S = R R the trace is that of (R S2 R)^(1/2), whose eigenvalues are real
  and not negative however ill-conditioned S1 and S2 are. With few samples the
  distance is too large, which a warning says.

  Raises:
    ConfigError: features of different sizes, or fewer than two samples.
  """
  if len(a.mean) != len(b.mean):
    raise ConfigError(
      f"{len(a.mean)} and {len(b.mean)} features cannot be compared."
    )
  for moments in (a, b):
    if moments.count <= len(moments.mean):
      log.warning(
        "%d samples are fewer than needed for %d features: the distance is "
        "biased, too large; compare it only with one of as many samples",
        moments.count,
        len(moments.mean),
      )
  first, second = a.covariance, b.covariance
  values, vectors = scipy.linalg.eigh(first)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  both = scipy.linalg.eigvalsh(root @ second @ root)
  cross = np.sqrt(np.maximum(both, 0)).sum()
  trace = np.trace(first) + np.trace(second) - 2 * cross
  return float(max(np.square(a.mean - b.mean).sum() + trace, 0.0))


def moments(
  batches: Iterable[tuple[Sequence[str], np.ndarray]],
) -> Moments:
  """Those of a stream of (names, features [N, D]); nothing else is kept.

  Raises:
    ConfigError: features that are not finite, or no samples.
  """
  total = None
  for names, features in batches:
    part = Moments.of(features, names)
    total = part if total is None else total + part
  if total is None:
    raise ConfigError("there are no samples.")
  return total
