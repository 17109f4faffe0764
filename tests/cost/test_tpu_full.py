"""Programs compiled for TPUs, none of which is here.

`launch/test.sh --full` puts the compiler beside the environment; only processes
that these tests start find it.
"""

import importlib.util
import pathlib
import re
import sys

import pytest

from pyramid_jax import sharding
from pyramid_jax.cli.compilers import prepare
from pyramid_jax.config import MeshConfig
from pyramid_jax.cost import chips
from pyramid_jax.cost.compile import devices
from tests import commands
from tests.cost.test_command_full import printed
from tests.cost.test_plan import TINY

ROOT = pathlib.Path(__file__).parents[2]
COMPILER = ROOT / ".venv" / "tpu_compiler"
pytestmark = pytest.mark.skipif(
  not COMPILER.is_dir() and importlib.util.find_spec("libtpu") is None,
  reason="the TPU compiler is not installed; bash launch/test.sh --full does",
)


def with_compiler():
  """Lets this process find the TPU compiler."""
  sys.path.append(str(COMPILER))


def plan(*arguments, topology):
  asked = (TINY, f"topology={topology}", *arguments)
  return commands.run("plan", *asked, before=with_compiler)


@pytest.mark.parametrize(
  "topology, machine, memory",
  [
    ("v5e:2x2", "v5e:2x2 (4 chips)", 16),
    ("v5p:1x1x1", "v5p:1x1x1 (1 chip)", 95),
  ],
)
def test_plan_for_a_tpu_estimates_the_time(topology, machine, memory):
  result = plan(topology=topology)
  assert result.code == 0, result.err
  assert "TPU_ACCELERATOR_TYPE" not in result.err  # no host is asked for
  found = printed(result)
  assert found["machine"] == machine
  assert found["in all"].endswith(f"of {memory}.00 GiB: fits")
  assert found["peaks"].startswith(str(chips.target(topology).chip))
  assert found["roofline"].endswith(" binds")


def test_plan_for_a_tpu_that_does_not_fit_names_its_buffers():
  result = plan("hbm_gib=0.0001", topology="v5e:2x2")
  assert result.code == 1, result.err
  assert "of 0.0001 GiB: DOES NOT FIT" in result.out
  assert re.search(r"^large +\S+ GiB +\w+\[[\d,]*\]", result.out, re.M)
  assert "--config.model.remat=layer" in printed(result)["try"]


# devices that JAX counts: a tpu7x chip is two
COUNTS = {
  "v4:2x2x2": 8, "v5p:2x2x2": 8, "tpu7x:2x2x1": 8,
  "v4:1x1x1": 1, "v5e:1x1": 1, "v5e:1x2": 2, "v5e:1x4": 4, "v6e:1x1": 1,
  "v5p:1x1x1": 1, "v5p:2x1x1": 2, "tpu7x:1x1x1": 2,
}  # fmt: skip


def count_devices():
  """Prints how many devices each slice has, and ends."""
  with_compiler()
  for topology in COUNTS:
    target = chips.target(topology)
    prepare(target)
    found = devices(target)
    sharding.make_mesh(MeshConfig(data=1, fsdp=target.devices), found)
    print(topology, len(found))
  sys.exit(0)


def test_a_device_is_what_jax_counts_as_one():
  result = commands.run("plan", before=count_devices)
  assert result.code == 0, result.err
  lines = map(str.split, result.out.splitlines())
  assert {name: int(count) for name, count in lines} == COUNTS


def compile_attention():
  """Prints how often a program calls each kernel, and ends."""
  with_compiler()
  sys.path.append(str(ROOT / "benchmarks"))
  import compile_attention as script

  target = chips.target("v5e:2x2")
  prepare(target)
  lowered, compiled, _ = script.compile_on(target, script.one_row)
  for name, count in script.calls(lowered.as_text(), "tpu").items():
    print(name, count)
  assert compiled.memory_analysis().temp_size_in_bytes > 0
  sys.exit(0)


def test_attention_and_its_gradients_compile_for_a_tpu():
  """A row of 8192 tokens a chip, 24 heads of 64, in bfloat16."""
  result = commands.run("plan", before=compile_attention)
  assert result.code == 0, result.err
  assert result.out.splitlines() == [
    "splash_mha_fwd 1", "splash_mha_dq 1", "splash_mha_dkv 1"
  ]  # fmt: skip
