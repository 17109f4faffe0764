"""Packs samples into rows under three budgets, from their lengths alone.

Two ways, each best where the other is not: `spread` fills a given number of
rows evenly, which finds room where samples are small or text is short of it;
`tight` fills row by row, which wastes least where a row holds a few large ones.

Every operation is elementwise (no BLAS), so all machines pack the same rows.
"""

import math
from typing import NamedTuple

import numpy as np


class Budget(NamedTuple):
  """What a row has room for."""

  latent: int  # tokens
  text: int
  items: int  # samples


def pack(
  latent: np.ndarray, text: np.ndarray, budget: Budget, rows: int
) -> tuple[list[list[int]], int]:
  """Packs samples into exactly `rows` rows; each must fit a row by itself.

  Returns:
    Indices of the samples of each row, each once (with fewer samples than
    rows some rows are repeated), and the number of samples that found no room.
  """
  packed = spread(latent, text, budget, rows) or tight(latent, text, budget)
  left_out = sum(map(len, packed[rows:]))  # the last rows are the emptiest
  packed = [row for row in packed[:rows] if row]
  while len(packed) < rows and len(longest := max(packed, key=len)) > 1:
    half = len(longest) // 2
    packed.append(longest[half:])
    del longest[half:]
  return [packed[r % len(packed)] for r in range(rows)], left_out


def rows_needed(latent: np.ndarray, text: np.ndarray, budget: Budget) -> int:
  """About the fewest rows into which `pack` gets all samples; so many do."""
  most = len(tight(latent, text, budget))
  least = math.ceil(max(map(_least, _loads(latent, text, budget))))
  while most - least > most // 512:
    middle = (least + most) // 2
    if spread(latent, text, budget, middle):
      most = middle
    else:
      least = middle + 1
  return most


def scarcest(
  latent: np.ndarray, text: np.ndarray, budget: Budget
) -> np.ndarray:
  """What each sample takes of whatever limits the rows most; integers."""
  taken, _ = max(_loads(latent, text, budget), key=_least)
  return taken


def _loads(latent, text, budget: Budget) -> list[tuple[np.ndarray, int]]:
  """What can limit the rows: how much each sample takes, and a row has.

  The last is the row itself, of which two samples above a half need two.
  """
  return [
    (latent, budget.latent),
    (text, budget.text),
    (np.ones_like(latent), budget.items),
    ((2 * latent > budget.latent).astype(np.int64), 1),
  ]


def _least(load: tuple[np.ndarray, int]) -> float:
  """Rows without which no packing can do."""
  taken, size = load
  return int(taken.sum()) / size


def spread(
  latent: np.ndarray, text: np.ndarray, budget: Budget, rows: int
) -> list[list[int]] | None:
  """Puts samples, the longest first, where the scarcer budget is least used.

  Returns:
    Indices of the samples of each of the rows, or None: one found no room.
  """
  order = np.argsort(-latent, kind="stable")
  xs = (latent[order] / budget.latent).tolist()
  ys = (text[order] / budget.text).tolist()
  left, room = np.ones(rows), np.ones(rows)
  packed = [[] for _ in range(rows)]
  rounding = 1e-9  # far below a token, far above the error of a sum of shares
  for i, x, y in zip(order.tolist(), xs, ys, strict=True):
    free = np.minimum(left - x, room - y)
    row = int(free.argmax())
    if free[row] < -rounding:
      return None
    left[row] -= x
    room[row] -= y
    packed[row].append(i)
    if len(packed[row]) == budget.items:
      left[row] = -1
  return packed


def tight(
  latent: np.ndarray, text: np.ndarray, budget: Budget
) -> list[list[int]]:
  """Packs row by row: the largest sample left, then whatever points most along
  the (latent, text) budgets that remain, large before small.

  Samples of equal lengths are one entry with a count.

  Returns:
    Indices of the samples of each row; all of them, each once.
  """
  table, count, members = _entries(latent, text, budget)
  live = np.arange(len(count))
  rows = []
  while len(live):
    row, fit, columns, best = [], live, table, 0
    left, room = budget.latent, budget.text
    while True:
      entry = fit[best]
      row.append(members[entry].pop())
      count[entry] -= 1
      left, room = left - columns[0, best], room - columns[1, best]
      fits = (columns[0] <= left) & (columns[1] <= room)
      fits[best] &= count[entry] > 0
      if len(row) == budget.items or not fits.any():
        break
      if not fits.all():
        fit, columns = fit[fits], columns[:, fits]
      x, y = left / budget.latent, room / budget.text
      norm = math.sqrt(x * x + y * y)
      score = columns[2] * (x / norm) + columns[3] * (y / norm)
      best = int(np.argmax(score + columns[4] * (1 / max(x, y))))
    rows.append(row)
    more = count[live] > 0
    if not more.all():
      live, table = live[more], table[:, more]
  return rows


def _entries(latent, text, budget: Budget):
  """Groups samples of equal lengths, the largest first.

  Returns:
    table [5, entries]: latent tokens, text tokens, their direction as shares
    of the budgets, the larger share; the count and the members of each entry.
  """
  (l, m), kind, count = np.unique(
    np.stack([latent, text]), axis=1, return_inverse=True, return_counts=True
  )
  x, y = l / budget.latent, m / budget.text
  norm, size = np.sqrt(x * x + y * y), np.maximum(x, y)
  by_size = np.argsort(-size, kind="stable")
  table = np.stack([l, m, x / norm, y / norm, size])[:, by_size]
  members = np.split(
    np.argsort(kind.reshape(-1), kind="stable"), np.cumsum(count)[:-1]
  )
  return table, count[by_size], [members[i].tolist() for i in by_size]
