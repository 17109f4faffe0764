"""Compiles range attention for TPUs that are not here, and says what it takes.

  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost \
    python benchmarks/compile_attention.py [topology ...]

needs `pip install libtpu` and no TPU. Forward and backward of one row a chip;
one line a topology: compile seconds, temporary memory a chip, and the kernels
that the compiled program calls. It ends with 1 if one of them is missing.
"""

import functools
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pyramid_jax.attention.attend import attend

TOPOLOGIES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
TOKENS, HEADS, HEAD_DIM = 8192, 24, 64
KERNELS = ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv")


def compile_on(topology: str):
  """The compiled program, its device kind and the seconds it took."""
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  shape = (len(devices), TOKENS)
  of = functools.partial(jax.ShapeDtypeStruct, sharding=rows)
  x, end = of((*shape, HEADS, HEAD_DIM), jnp.bfloat16), of(shape, jnp.int32)

  def both(q, k, v, start, end, grad):
    out, pull = jax.vjp(lambda *args: attend(*args, start, end), q, k, v)
    return out, pull(grad)

  with jax.set_mesh(mesh):
    local = jax.shard_map(
      both,
      in_specs=(PartitionSpec("data"),) * 6,
      out_specs=PartitionSpec("data"),
      check_vma=False,
    )
    began = time.perf_counter()
    program = jax.jit(local).trace(x, x, x, end, end, x)
    program = program.lower(lowering_platforms=("tpu",)).compile()
  return program, devices[0].device_kind, time.perf_counter() - began


def calls(text: str) -> dict[str, int]:
  """How often each kernel is called in a compiled program."""
  return {
    name: len(re.findall(rf"%{name}\S* = [^\n]*custom-call\(", text))
    for name in KERNELS
  }


def main(names: list[str]) -> int:
  missing = 0
  for name in names or TOPOLOGIES:
    program, kind, seconds = compile_on(name)
    memory = program.memory_analysis().temp_size_in_bytes / 2**20
    found = calls(program.as_text())
    missing += not all(found.values())
    print(
      f"{name} ({kind}): compiled in {seconds:.1f} s, {memory:.0f} MiB "
      f"temporary a chip, calls {found}",
      flush=True,
    )
  return int(missing > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
