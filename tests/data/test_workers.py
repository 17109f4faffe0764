"""A function of many things in processes: in order, and told what fails."""

import operator
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.data import workers

THINGS = range(2 * workers.LEAST)


def name_and_process(thing):
  return thing, os.getpid()


def end_at_three(thing):
  if thing == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return thing


def test_results_come_in_order_from_several_processes():
  found = list(workers.in_order(name_and_process, THINGS, 2))
  assert [thing for thing, _ in found] == list(THINGS)
  assert os.getpid() not in {process for _, process in found}


def test_for_few_things_no_process_is_started():
  found = workers.in_order(name_and_process, THINGS[:-1], 8)
  assert {process for _, process in found} == {os.getpid()}


def test_the_first_failure_is_raised_after_what_is_before_it():
  things = [*range(5), "a", None, *THINGS]
  found = workers.in_order(operator.invert, things, 2)
  assert [next(found) for _ in range(5)] == [-1, -2, -3, -4, -5]
  with pytest.raises(TypeError, match="'str'"):
    next(found)


def test_a_killed_process_is_told():
  with pytest.raises(ConfigError, match="was killed.*use fewer: --workers"):
    list(workers.in_order(end_at_three, THINGS, 2))


def test_the_processes_end_with_the_one_that_started_them():
  code = (
    "import time\n"
    "from pyramid_jax.data import workers\n"
    "from tests.data.test_workers import name_and_process\n"
    "if __name__ == '__main__':\n"
    "  found = workers.in_order(name_and_process, range(64), 2)\n"
    "  print(next(found)[1], flush=True)\n"
    "  time.sleep(60)\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  ) as process:
    worker = int(process.stdout.readline())
    process.kill()
  limit = time.monotonic() + 20
  while _runs(worker):
    assert time.monotonic() < limit, f"{worker} still runs"
    time.sleep(0.1)


def _runs(process: int) -> bool:
  state = pathlib.Path(f"/proc/{process}/stat")
  try:
    return state.read_text().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False
