"""`pyramid-plan` on the tiny run, compiled for eight CPU devices."""

import re

from tests import commands
from tests.cost.test_plan import TINY


def plan(*arguments):
  return commands.run("plan", TINY, "topology=cpu:8", *arguments)


def test_plan_prints_memory_operations_and_exchanges():
  result = plan()
  assert result.code == 0, result.err
  found = dict(re.findall(r"^(\S.*?)  +(.*)$", result.out, re.M))
  assert found["mesh"] == "data 1, fsdp 8, tensor 1, sequence 1"
  assert found["in all"].endswith("no limit known GiB: fits")
  assert found["rows a step"].startswith("8 of 192 latent + 64 text tokens")
  # every row of the tiny run is full of padding, so more is executed
  share = re.search(r"(\d+)% of what is executed", found["model FLOPs"])
  assert 5 < int(share[1]) < 100
  assert "all-gather over 8" in result.out


def test_plan_that_does_not_fit_names_the_largest_arrays_and_exits_with_1():
  result = plan("hbm_gib=0.0001")
  assert result.code == 1
  assert "of 0.0001 GiB: DOES NOT FIT" in result.out
  large = re.findall(r"^large +(\S+) GiB +(\w+\[[\d,]*\])", result.out, re.M)
  assert len(large) == 8
  sizes = [float(size) for size, _ in large]
  assert sizes == sorted(sizes, reverse=True)
