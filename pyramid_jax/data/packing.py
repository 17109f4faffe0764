"""Plan, then load: which samples stand in which row, from lengths alone.

The endless order of samples is cut into windows. A window is packed into rows
under three budgets (L latent tokens, M text tokens, S segments), and its rows
are shuffled. Row n of a run is found by the cumulative sum of the rows per
window, so it is a pure function of the settings and n, whoever asks and when.
"""

import bisect
import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import threading
import uuid
from collections.abc import Sequence

import numpy as np

from pyramid_jax.config import ConfigError, FlowConfig, LatentDataConfig
from pyramid_jax.data import order
from pyramid_jax.data.draws import Draws, Pick, Samples
from pyramid_jax.data.latents import LatentStore

VERSION = 1  # of the plan; raise it when the same settings pack other rows
SHUFFLE = 2**33  # what a hash is drawn for
KEPT = 4  # windows in memory
# settings of the data that do not change which samples stand in a row
NOT_PLANNED = {"sources": None, "rows": None, "workers": None}


@dataclasses.dataclass(frozen=True)
class Window:
  """The rows of a window; row r holds samples first[r] to first[r + 1]."""

  samples: Samples
  first: np.ndarray

  def __len__(self) -> int:
    return len(self.first) - 1

  def row(self, r: int) -> list[Pick]:
    """The samples of a row with their choices."""
    return [self.samples.pick(i) for i in range(*self.first[r : r + 2])]


class Planner:
  """Finds row n: the samples it holds and what is drawn for them.

  Planning 4096 samples takes a fraction of a second, once per window in the
  order of a run. Jumping to a row far ahead first counts the rows of every
  window before it, at the same cost each; the counts are kept in `cache`, a
  folder, so that a resumed run starts at once. Safe to use from threads.

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
    cache: str | os.PathLike | None = None,
  ):
    self.config = config
    self.draws = _draws(stores, config, flow, patch, seed)
    self.draws.check_fit()
    settings = {
      "plan": VERSION,
      "stores": [s.fingerprint for s in stores],
      "weights": [s.weight for s in config.sources],
      "data": dataclasses.asdict(config) | NOT_PLANNED,
      "flow": [flow.stages, flow.frames_per_unit, flow.history],
      "patch": patch,
      "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    self.fingerprint = digest.hexdigest()
    self._file = None
    if cache is not None:
      self._file = pathlib.Path(cache) / f"rows_{self.fingerprint[:16]}.npy"
    self._ends = self._load()  # rows up to the end of each window
    self._windows = collections.OrderedDict()
    self._lock = threading.RLock()

  def __getstate__(self):
    return self.__dict__ | {"_lock": None, "_windows": None}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._lock, self._windows = threading.RLock(), collections.OrderedDict()

  def row(self, n: int) -> list[Pick]:
    """The samples of row n."""
    w, r = self.locate(n)
    return self.window(w).row(r)

  def locate(self, n: int) -> tuple[int, int]:
    """(window, row in it) of row n."""
    with self._lock:
      while not self._ends or self._ends[-1] <= n:
        rows = len(self.window(len(self._ends)))
        self._ends.append(rows + (self._ends[-1] if self._ends else 0))
        self._save()
      w = bisect.bisect_right(self._ends, n)
      return w, n - (self._ends[w - 1] if w else 0)

  def window(self, w: int) -> Window:
    """Plans window w, or remembers it.

    Raises:
      ConfigError: its number of rows is not the one that the cache holds.
    """
    with self._lock:
      if w not in self._windows:
        self._windows[w] = self._plan(w)
        self._check_count(w)
      self._windows.move_to_end(w)
      if len(self._windows) > KEPT:
        self._windows.popitem(last=False)
      return self._windows[w]

  def fill(self, windows: Sequence[int] = (0,)) -> float:
    """Valid (latent + text) tokens / (L + M), over the rows of windows."""
    planned = [self.window(w) for w in windows]
    valid = sum(
      int(w.samples.latent.sum() + w.samples.text.sum()) for w in planned
    )
    tokens = self.config.latent_tokens + self.config.text_tokens
    return valid / (tokens * sum(map(len, planned)))

  def _plan(self, w: int) -> Window:
    """Packs window w; the windows of a pass are equally long."""
    config, length = self.config, self.draws.mixture.length
    windows = -(-length // config.window)
    turn, i = divmod(w, windows)
    positions = np.arange(i * length // windows, (i + 1) * length // windows)
    samples = self.draws.at(turn, positions)
    rows = balanced(
      samples.latent,
      samples.text,
      config.latent_tokens,
      config.text_tokens,
      config.segments // config.segments_per_clip,
    )
    place = order.permute(
      np.arange(len(rows)), len(rows), self.draws.seed, SHUFFLE, w
    )
    rows = [rows[r] for r in place]
    first = np.cumsum([0] + [len(row) for row in rows])
    return Window(samples.take(np.concatenate(rows)), first)

  def _check_count(self, w: int) -> None:
    rows = len(self._windows[w])
    if w < len(self._ends):
      known = self._ends[w] - (self._ends[w - 1] if w else 0)
      if known != rows:
        raise ConfigError(
          f"{self._file} says that window {w} has {known} rows; it has {rows}. "
          "Delete that file; it is made again."
        )

  def _load(self) -> list[int]:
    if self._file is None or not self._file.exists():
      return []
    return np.load(self._file).tolist()

  def _save(self) -> None:
    """Keeps the counts; a file of a few KB, written whole or not at all."""
    if self._file is None:
      return
    self._file.parent.mkdir(parents=True, exist_ok=True)
    beside = self._file.with_suffix(f".{uuid.uuid4()}.partial")
    with open(beside, "wb") as file:
      np.save(file, np.array(self._ends, np.int64))
    os.replace(beside, self._file)


def balanced(
  latent: np.ndarray,
  text: np.ndarray,
  latent_tokens: int,
  text_tokens: int,
  items: int,
) -> list[list[int]]:
  """Packs samples into rows; every one must fit a row by itself.

  Row by row: the largest sample left, then whatever points most along the
  (L, M) budgets that remain, large before small; `items` is only a limit.
  Samples of equal lengths are one entry with a count. Every operation is
  elementwise (no BLAS), so that all machines plan the same rows.

  Returns:
    Indices of the samples of each row; all of them, each once.
  """
  table, count, members = _entries(latent, text, latent_tokens, text_tokens)
  live = np.arange(len(count))
  rows = []
  while len(live):
    row, fit, columns, best = [], live, table, 0
    left, room = latent_tokens, text_tokens
    while True:
      entry = fit[best]
      row.append(members[entry].pop())
      count[entry] -= 1
      left, room = left - columns[0, best], room - columns[1, best]
      fits = (columns[0] <= left) & (columns[1] <= room)
      fits[best] &= count[entry] > 0
      if len(row) == items or not fits.any():
        break
      if not fits.all():
        fit, columns = fit[fits], columns[:, fits]
      x, y = left / latent_tokens, room / text_tokens
      norm = math.sqrt(x * x + y * y)
      score = columns[2] * (x / norm) + columns[3] * (y / norm)
      best = int(np.argmax(score + columns[4] * (1 / max(x, y))))
    rows.append(row)
    more = count[live] > 0
    if not more.all():
      live, table = live[more], table[:, more]
  return rows


def _entries(latent, text, latent_tokens, text_tokens):
  """Groups samples of equal lengths, the largest first.

  Returns:
    table [5, entries]: latent tokens, text tokens, their direction as shares
    of the budgets, the larger share; the count and the members of each entry.
  """
  (l, m), kind, count = np.unique(
    np.stack([latent, text]), axis=1, return_inverse=True, return_counts=True
  )
  x, y = l / latent_tokens, m / text_tokens
  norm, size = np.sqrt(x * x + y * y), np.maximum(x, y)
  by_size = np.argsort(-size, kind="stable")
  table = np.stack([l, m, x / norm, y / norm, size])[:, by_size]
  members = np.split(
    np.argsort(kind.reshape(-1), kind="stable"), np.cumsum(count)[:-1]
  )
  return table, count[by_size], [members[i].tolist() for i in by_size]


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
