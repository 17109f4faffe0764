"""A pure function of many things, computed by several processes in order.

Python code of one process keeps one core busy; drawing clips and reading what
they show is such code. Results come in the order of the things, whatever the
number of processes.
"""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pyramid_jax.config import ConfigError

LEAST = 16  # things a process, for which starting one is worth it
AHEAD = 4  # results a process that may wait to be taken

T, R = TypeVar("T"), TypeVar("R")


def cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_order(
  function: Callable[[T], R], things: Sequence[T], workers: int
) -> Iterator[R]:
  """`function` of each thing, in order, by at most `workers` processes.

  For few things there are fewer processes, or none beside this one. Function
  and things travel to processes that are started anew, so that they must be
  picklable, and the module of the function is better one that loads quickly.

  Raises:
    ConfigError: a process was killed.
    Exception: what `function` raises, for the first thing that it refuses.
  """
  workers = min(workers, len(things) // LEAST)
  if workers < 2:
    yield from map(function, things)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    # not a fork: threads of JAX and of the readers of files may hold locks
    multiprocessing.get_context("spawn"),
    initializer=_start,
  )
  try:
    left = iter(things)
    submit = lambda n: [
      pool.submit(function, thing) for thing in itertools.islice(left, n)
    ]
    running = collections.deque(submit(AHEAD * workers))
    while running:
      done = running.popleft().result()
      running += submit(1)
      yield done
  except concurrent.futures.BrokenExecutor as error:
    raise ConfigError(
      f"one of {workers} processes was killed, perhaps for want of memory; use "
      "fewer: --workers."
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
  """Lets this process end when the one that started it is gone."""

  def watch():
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _start() -> None:
  """Ctrl-C is for the process that gathers; none must outlive it."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  end_with_parent()
