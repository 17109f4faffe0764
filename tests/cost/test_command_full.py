"""`pyramid-plan` on the tiny run, compiled for eight CPU devices."""

import re

from tests import commands
from tests.cost.test_plan import TINY


def plan(*arguments, topology="cpu:8"):
  return commands.run("plan", TINY, f"topology={topology}", *arguments)


def printed(result):
  """Of the labels that are there once, what stands beside them."""
  return dict(re.findall(r"^(\S.*?)  +(.*)$", result.out, re.M))


def test_plan_prints_memory_operations_and_exchanges():
  result = plan()
  assert result.code == 0, result.err
  found = printed(result)
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


def test_plan_of_the_sampler_prints_the_parts_of_every_program():
  result = plan("generate")
  assert result.code == 0, result.err
  blocks = result.out.split("\n\n")
  programs = re.findall(r"^program +(.*)$", result.out, re.M)
  # 5 frames are 3 of latents: the first by itself, then one bucket
  assert programs == ["units up to 0 of 8 clips", "units up to 2 of 8 clips"]
  for block in blocks[: len(programs)]:
    for part in ("parameters", "latents", "text", "activations"):
      assert re.search(rf"HBM a device.*\b{part}\b.* [\d.]+", block), block
    assert "no limit known GiB: fits" in block
    assert "optimizer" not in block and "rows a step" not in block


def test_plan_of_a_transformers_vae_is_of_its_phases():
  result = plan("vae")
  assert result.code == 0, result.err
  found = printed(result)
  assert found["program"] == "training step on 8 clips of 1 x 32 x 32"
  assert found["in all"].endswith("no limit known GiB: fits")
  assert "assumed" not in found


def test_slices_are_compiled_as_one_of_them():
  # the data axis is over both slices, fsdp within one
  mesh = ("slices=2", "config.mesh.data=2")
  result = plan(*mesh, topology="cpu:4")
  assert result.code == 0, result.err
  found = printed(result)
  assert found["machine"] == "2 slices of cpu:4 (8 chips)"
  assert found["mesh"] == "data 2, fsdp 4, tensor 1, sequence 1"
  assert found["slices"].startswith("compiled as one of 2; ")
  assert "over 4" in result.out and "over 8" not in result.out
