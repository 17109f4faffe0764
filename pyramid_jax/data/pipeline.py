"""Stored latents to batches of rows, in the order of the plan.

The only state is one integer, the next row: a run continues exactly where it
stopped, on any number of processes. Each process loads the rows that its
devices hold; rows that several processes need, each of them loads.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import grain
from absl import flags

from pyramid_jax.config import ConfigError, LatentDataConfig
from pyramid_jax.data import latent_record, workers
from pyramid_jax.data.curriculum import Curriculum
from pyramid_jax.data.latents import LatentStore
from pyramid_jax.data.packing import Planner
from pyramid_jax.data.rows import Row, TokenSpec, pack_row, segments

READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
MAX_ROWS = 2**31 - 1  # a row's number is an int32 on the device


class Rows:
  """Row n of a run, for any n: `rows[n]`."""

  def __init__(
    self,
    stores: Sequence[LatentStore],
    planner: Planner | Curriculum,
    spec: TokenSpec,
  ):
    self.stores = list(stores)
    self.planner = planner
    self.spec = spec

  def __len__(self) -> int:
    return MAX_ROWS

  def __getitem__(self, n: int) -> Row:
    parts = []
    for pick in self.planner.row(n):
      store = self.stores[pick.source]
      parts += segments(
        store.read(pick.sample, pick.caption),
        pick.choices,
        self.stores[0].null,
        store.metadata.statistics,
        self.spec,
      )
    config = self.planner.config
    return pack_row(
      parts,
      config.latent_tokens,
      config.text_tokens,
      config.segments,
      n,
    )


class Batches(Iterator[Row]):
  """Endless batches of a process's rows; `row` is the next global row.

  Save `row` to continue later; `close` stops the loaders.
  """

  def __init__(self, dataset: grain.IterDataset, row: int, rows: int):
    self.row = row
    self._rows = rows
    self._iterator = iter(dataset)

  def __next__(self) -> Row:
    batch = next(self._iterator)
    self.row += self._rows
    return batch

  def close(self) -> None:
    """Stops loading."""
    self._iterator.close()


def batches(
  stores: Sequence[LatentStore],
  planner: Planner | Curriculum,
  spec: TokenSpec,
  start_row: int = 0,
  process_rows: Sequence[int] | None = None,
) -> Batches:
  """Batches of `config.rows` rows from `start_row` on, leading dimension B.

  Args:
    stores: as the planner knows them.
    planner: of the run; its config says rows a step and loader processes.
    spec: how latents become tokens.
    start_row: the global row to begin with.
    process_rows: places in the global batch that this process loads, see
      `rows_of_process`; None: all of them.

  Raises:
    ConfigError: there is no row to load.
  """
  config = planner.config
  places = range(config.rows) if process_rows is None else process_rows
  if config.rows < 1 or not len(places):
    raise ConfigError(
      f"config.latents.rows is {config.rows}, of which this process loads "
      f"{len(places)}; every process needs at least one."
    )
  planner.row(start_row)  # what is the same for all rows is found once, here
  # imports what reading needs: two threads that do so at once can deadlock
  latent_record.fields(b"")
  source = _Ahead(Rows(stores, planner, spec), start_row, config, places)
  dataset = grain.MapDataset.source(source).batch(len(places))
  return Batches(load_ahead(dataset, config.workers), start_row, config.rows)


def load_ahead(dataset: grain.MapDataset, processes: int) -> grain.IterDataset:
  """Loads in order, ahead of use: by threads, or by so many processes."""
  loaded = dataset.to_iter_dataset(READ)
  if not processes:
    return loaded
  if not flags.FLAGS.is_parsed():  # grain reads flags in its workers
    flags.FLAGS.mark_as_parsed()
  return loaded.mp_prefetch(
    grain.MultiprocessingOptions(num_workers=processes),
    worker_init_fn=_start_worker,
  )


def rows_of_process(sharding: Any, rows: int) -> list[int]:
  """Places in a global batch of `rows` that this process's devices hold.

  `sharding` is that of the batch dimension, a `jax.sharding.Sharding`.
  """
  held = sharding.addressable_devices_indices_map((rows,)).values()
  return sorted({i for (part,) in held for i in range(*part.indices(rows))})


class _Ahead:
  """A process's rows, numbered from 0 at the start of the run."""

  def __init__(
    self,
    rows: Rows,
    start: int,
    config: LatentDataConfig,
    places: Sequence[int],
  ):
    self.rows, self.start = rows, start
    self.step, self.places = config.rows, tuple(places)

  def __len__(self) -> int:
    steps = (len(self.rows) - self.start) // self.step
    return steps * len(self.places)

  def __getitem__(self, i: int) -> Row:
    step, place = divmod(int(i), len(self.places))
    return self.rows[self.start + step * self.step + self.places[place]]


def _start_worker(index: int, count: int) -> None:
  """A loader process must not outlive a killed run, nor wait for itself.

  Ctrl-C goes to it as well; it is the run that ends then, after a last step.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  del index, count
  latent_record.fields(b"")
  workers.end_with_parent()
