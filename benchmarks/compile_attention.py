"""Compiles range attention for devices that are not here: what it takes.

  python benchmarks/compile_attention.py >> docs/performance.jsonl
  python benchmarks/compile_attention.py h100:4 v5p:2x2x1

needs the compiler and no device (TPUs: pip install "jax[tpu]"; GPUs:
"jax[cuda13]"). Forward and backward of one row of 8192 tokens a chip, then of
four layers whose rows lie on two chips each, under the remat policy that keeps
attention. A line of JSON for each: compile seconds, temporary memory a chip,
how often the program calls each kernel. It ends with 1 if that is not once
each. performance_document.py makes a table of the lines.
"""

import functools
import json
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pyramid_jax.attention.attend import attend, attend_joint
from pyramid_jax.cli.compilers import prepare
from pyramid_jax.cost import chips
from pyramid_jax.cost.compile import devices
from pyramid_jax.models.pure import REMAT

TOPOLOGIES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1",
              "a100:4", "h100:4")  # fmt: skip
TEXT, TOKENS, HEADS, HEAD_DIM, LAYERS = 1024, 8192, 24, 64, 4
KERNELS = {
  "tpu": ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"),
  "cuda": (
    "range_attention_forward",
    "range_attention_grad_query",
    "range_attention_grad_key",
  ),
}


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


def compile_on(target: chips.Target, program, sequence: int = 1):
  """The lowered and the compiled program, and the seconds it took."""
  found = devices(target)
  mesh = Mesh(
    np.array(found).reshape(-1, sequence),
    ("data", "sequence"),
    axis_types=(AxisType.Auto,) * 2,
  )
  shape = (len(found) // sequence, TOKENS)
  of = functools.partial(
    jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, PartitionSpec("data"))
  )
  x, end = of((*shape, HEADS, HEAD_DIM), jnp.bfloat16), of(shape, jnp.int32)
  with jax.set_mesh(mesh):
    began = time.perf_counter()
    traced = jax.jit(program).trace(x, x, x, end, end, x)
    lowered = traced.lower(lowering_platforms=(target.platform,))
    compiled = lowered.compile()
  return lowered, compiled, time.perf_counter() - began


def calls(text: str, platform: str) -> dict[str, int]:
  """How often each kernel is called in a lowered program."""
  return {
    name: len(re.findall(f'name = "{name}', text)) for name in KERNELS[platform]
  }


def main(names: list[str]) -> int:
  wrong = 0
  for name in names or TOPOLOGIES:
    target = chips.target(name)
    prepare(target)
    for program, sequence in ((one_row, 1), (layers, 2)):
      lowered, compiled, seconds = compile_on(target, program, sequence)
      found = calls(lowered.as_text(), target.platform)
      wrong += any(count != 1 for count in found.values())
      line = {
        "part": "kernels",
        "compiled_for": name,
        "program": program.__name__,
        "calls": found,
        "compile_seconds": round(seconds, 1),
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
      }
      print(json.dumps(line), flush=True)
  return int(wrong > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
