"""Compiles range attention for TPUs that are not here, and says what it takes.

  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost \
    python benchmarks/compile_attention.py [topology ...]

needs `pip install libtpu` and no TPU. Forward and backward of one row of 8192
tokens a chip, then of four layers whose rows lie on two chips each, under the
remat policy that keeps attention. A line for each: compile seconds, temporary
memory a chip, how often the program calls each kernel. It ends with 1 if that
is not once each.
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

from pyramid_jax.attention.attend import attend, attend_joint
from pyramid_jax.models.pure import REMAT

TOPOLOGIES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
TEXT, TOKENS, HEADS, HEAD_DIM, LAYERS = 1024, 8192, 24, 64, 4
KERNELS = ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv")


def one_row(q, k, v, start, end, grad):
  """Attention and its gradients, one row a chip."""

  def both(q, k, v, start, end, grad):
    out, pull = jax.vjp(lambda *args: attend(*args, start, end), q, k, v)
    return out, pull(grad)

  rows = PartitionSpec("data")
  return jax.shard_map(
    both, in_specs=(rows,) * 6, out_specs=rows, check_vma=False
  )(q, k, v, start, end, grad)


def layers(q, k, v, start, end, grad):
  """Gradients of a scan of layers, the tokens of a row on several chips."""
  order = jnp.broadcast_to(jnp.arange(TOKENS, dtype=jnp.int32), start.shape)

  def layer(carry, weight):
    q, k, v = (jnp.sin(x * weight) for x in carry)
    streams = ((q[:, :TEXT], k[:, :TEXT], v[:, :TEXT]),
               (q[:, TEXT:], k[:, TEXT:], v[:, TEXT:]))  # fmt: skip
    parts = attend_joint(
      *streams, order, order, start, end,
      batch_axes=("data",), token_axis="sequence",
    )  # fmt: skip
    return (jnp.concatenate(parts, 1), k, v), None

  layer = jax.checkpoint(layer, policy=REMAT["attention"], prevent_cse=False)
  weights = jnp.ones((LAYERS, 1), q.dtype)
  run = lambda *qkv: jax.lax.scan(layer, qkv, weights)[0][0]
  return jax.vjp(run, q, k, v)[1](grad)


def compile_on(topology: str, program, sequence: int = 1):
  """The lowered and the compiled program, the device kind and the seconds."""
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  ).devices
  mesh = Mesh(
    np.array(devices).reshape(-1, sequence),
    ("data", "sequence"),
    axis_types=(AxisType.Auto,) * 2,
  )
  shape = (len(devices) // sequence, TOKENS)
  of = functools.partial(
    jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, PartitionSpec("data"))
  )
  x, end = of((*shape, HEADS, HEAD_DIM), jnp.bfloat16), of(shape, jnp.int32)
  with jax.set_mesh(mesh):
    began = time.perf_counter()
    traced = jax.jit(program).trace(x, x, x, end, end, x)
    lowered = traced.lower(lowering_platforms=("tpu",))
    compiled = lowered.compile()
  seconds = time.perf_counter() - began
  return lowered, compiled, devices[0].device_kind, seconds


def calls(text: str) -> dict[str, int]:
  """How often each kernel is called in a lowered program."""
  return {
    name: len(re.findall(f'kernel_name = "{name}', text)) for name in KERNELS
  }


def main(names: list[str]) -> int:
  wrong = 0
  for name in names or TOPOLOGIES:
    for program, sequence in ((one_row, 1), (layers, 2)):
      lowered, compiled, kind, seconds = compile_on(name, program, sequence)
      memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
      found = calls(lowered.as_text())
      wrong += any(count != 1 for count in found.values())
      print(
        f"{name} ({kind}), {program.__name__}: compiled in {seconds:.1f} s, "
        f"{memory:.0f} MiB temporary a chip, calls {found}",
        flush=True,
      )
  return int(wrong > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
