"""Plan, then load: which samples stand in which row, from lengths alone.

The endless order of samples is cut into blocks of `BLOCK` windows on average
of `config.window` samples; within a block every window has an equal share of
what limits the rows, so that all of them fill about the same number of rows.
That number, with a little room for what differs between blocks, is the same
for all windows of a run: row n is row n % R of window n // R, a pure function
of the settings and n, whoever asks and when, found without any row before it.
"""

import dataclasses
import functools
import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pyramid_jax.config import FlowConfig, LatentDataConfig
from pyramid_jax.data import bins, order
from pyramid_jax.data.draws import Draws, Pick, Samples
from pyramid_jax.data.latents import LatentStore

log = logging.getLogger(__name__)

VERSION = 2  # of the plan; raise it when the same settings pack other rows
SHUFFLE = 2**33  # what a hash is drawn for
BLOCK = 64  # windows
ROOM = 4.0  # standard deviations of a block's tokens for which rows have room
KEPT = 4  # windows, and blocks, in memory
CHUNK = 2**16  # samples drawn at once


@dataclasses.dataclass(frozen=True)
class Window:
  """The rows of a window; row r holds samples first[r] to first[r + 1]."""

  samples: Samples
  first: np.ndarray
  left_out: int = 0  # samples that found no room in this epoch

  def __len__(self) -> int:
    return len(self.first) - 1

  def row(self, r: int) -> list[Pick]:
    """The samples of a row with their choices."""
    return [self.samples.pick(i) for i in range(*self.first[r : r + 2])]


class Block(NamedTuple):
  """Where the windows of a block lie, and how much blocks differ."""

  edges: np.ndarray  # [BLOCK + 1] positions in the order
  deviation: float  # of what is scarcest in a block, as a share


class Planner:
  """Finds row n: the samples it holds and what is drawn for them.

  Any row costs the same: the lengths of its block are drawn and its window is
  packed, if it is not one of the last asked for. Safe to use from threads.

  Raises:
    ConfigError: a clip that does not fit into a row; see also `Draws`.
  """

  def __init__(
    self,
    stores: Sequence[LatentStore],
    config: LatentDataConfig,
    flow: FlowConfig,
    patch: int,
    seed: int,
  ):
    self.config = config
    self.draws = _draws(stores, config, flow, patch, seed)
    self.draws.check_fit()
    self.budget = bins.Budget(
      config.latent_tokens,
      config.text_tokens,
      config.segments // config.segments_per_clip,
    )
    self._blocks: dict[int, Block] = {}
    self._windows: dict[int, Window] = {}
    self._lock = threading.RLock()

  def __getstate__(self):
    return self.__dict__ | {"_lock": None, "_windows": {}}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock = threading.RLock()

  def row(self, n: int) -> list[Pick]:
    """The samples of row n."""
    w, r = self.locate(n)
    return self.window(w).row(r)

  def locate(self, n: int) -> tuple[int, int]:
    """(window, row in it) of row n."""
    with self._lock:
      return divmod(n, self.window_rows)

  @functools.cached_property
  def window_rows(self) -> int:
    """Rows of every window: what the first one needs, and some room."""
    block = self._block(0)
    samples = self._samples(*block.edges[:2])
    needed = bins.rows_needed(samples.latent, samples.text, self.budget)
    return math.ceil(needed * (1 + ROOM * block.deviation))

  def window(self, w: int) -> Window:
    """The rows of window w, planned now or remembered."""
    with self._lock:
      return _kept(self._windows, w, self._plan)

  def fill(self, windows: Sequence[int] = (0,)) -> float:
    """Valid (latent + text) tokens / (L + M), over the rows of windows."""
    planned = [self.window(w) for w in windows]
    valid = sum(
      int(w.samples.latent.sum() + w.samples.text.sum()) for w in planned
    )
    tokens = self.config.latent_tokens + self.config.text_tokens
    return valid / (tokens * sum(map(len, planned)))

  def _plan(self, w: int) -> Window:
    """Packs window w."""
    block, i = divmod(w, BLOCK)
    samples = self._samples(*self._block(block).edges[i : i + 2])
    size = self.window_rows
    rows, left_out = bins.pack(samples.latent, samples.text, self.budget, size)
    if left_out:
      log.warning(
        "%d of the %d samples of window %d found no room in its %d rows; they "
        "come again in a later epoch.",
        left_out, len(samples.latent), w, size,
      )  # fmt: skip
    place = order.permute(np.arange(size), size, self.draws.seed, SHUFFLE, w)
    rows = [rows[r] for r in place]
    first = np.cumsum([0] + [len(row) for row in rows])
    return Window(samples.take(np.concatenate(rows)), first, left_out)

  def _block(self, b: int) -> Block:
    """Block b, cut into windows now or remembered."""
    with self._lock:
      return _kept(self._blocks, b, self._cut)

  def _cut(self, b: int) -> Block:
    """Shares out evenly what is scarcest, one sample a window at least."""
    size, j = BLOCK * self.config.window, np.arange(BLOCK + 1)
    start = b * size
    parts = [
      self._samples(at, min(at + CHUNK, start + size))
      for at in range(start, start + size, CHUNK)
    ]
    latent, text = (
      np.concatenate([getattr(part, name) for part in parts])
      for name in ("latent", "text")
    )
    taken = bins.scarcest(latent, text, self.budget)
    upto = np.cumsum(taken)
    edges = np.searchsorted(upto, upto[-1] * j // BLOCK, side="right")
    edges = np.maximum.accumulate(np.r_[0, edges[1:-1], size] - j) + j
    # sums of integers, so that all machines find the same
    squares = int((taken * taken).sum()) / int(upto[-1]) ** 2
    return Block(
      edges=start + np.minimum(edges, size - BLOCK + j),
      deviation=math.sqrt(max(squares - 1 / size, 0)),
    )

  def _samples(self, start: int, end: int) -> Samples:
    """What stands from position `start` to `end` in the endless order."""
    turn, place = np.divmod(np.arange(start, end), self.draws.mixture.length)
    return self.draws.at(turn, place)


def _kept(cache: dict, key: int, make: Callable[[int], Any]) -> Any:
  """What `make` gives for a key; the last few are remembered."""
  if key not in cache:
    cache[key] = make(key)
    if len(cache) > KEPT:
      del cache[next(iter(cache))]
  return cache[key]


def suggest_budgets(
  stores: Sequence[LatentStore],
  config: LatentDataConfig,
  flow: FlowConfig,
  patch: int,
  multiple: int = 128,
  samples: int = 16384,
) -> tuple[int, int]:
  """(text_tokens, segments) that suit `config.latent_tokens` and the data.

  M follows the data's own ratio of text to latent tokens plus 3%, such that
  L + M is a multiple of `multiple`; S is a generous limit, a multiple of 8.
  """
  draws = _draws(stores, config, flow, patch, 0)
  drawn = draws.at(0, np.arange(min(samples, draws.mixture.length)))
  full, k = config.latent_tokens, config.segments_per_clip
  text = max(
    math.ceil(full * drawn.text.sum() / drawn.latent.sum() * 1.03),
    k * max(int(draws.text.max()), draws.null_text),
  )
  segments = max(math.ceil(2.5 * k * full / drawn.latent.mean()), k)
  return -(-(full + text) // multiple) * multiple - full, -(-segments // 8) * 8


def _draws(stores, config, flow, patch, seed) -> Draws:
  lengths = [store.lengths for store in stores]
  null_text = len(stores[0].null.text)
  return Draws(lengths, null_text, config, flow, patch, seed)
