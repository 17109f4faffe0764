"""What telling each token its own segment's modulation costs a layer.

  python benchmarks/compile_modulation.py v5p:2x2x1 h100:1 \
    >> docs/performance.jsonl

compiles layers of the 2 B MM-DiT, forward and backward, for one device that
need not be there (TPUs: pip install "jax[tpu]"; GPUs: "jax[cuda13]"), a row as
at 768p, with the ways there are to give every token of it the modulation of its
segment. A line of JSON for each: temporary memory, bytes that a layer moves.
performance_document.py makes a table of the lines.
"""

import functools
import json
import sys
from unittest import mock

import jax
import jax.numpy as jnp

from pyramid_jax import config as c
from pyramid_jax import sharding
from pyramid_jax.cli.compilers import prepare
from pyramid_jax.cost import chips
from pyramid_jax.cost.compile import devices
from pyramid_jax.cost.hlo import Module
from pyramid_jax.models import streams
from pyramid_jax.models.pure import pure, scan_layers, stack

LATENT, TEXT, SEGMENTS = 16128, 256, 16
LAYERS, REMAT = 4, "matmuls"


def whole(x_BSD, segment_BL):
  """The first segment's."""
  return x_BSD[:, :1]


def gathered(x_BSD, segment_BL):
  """Each token's own row."""
  return streams.gathered(x_BSD, jnp.maximum(segment_BL - 1, 0))


def product(x_BSD, segment_BL):
  """The same as a matrix product."""
  return streams.multiplied(x_BSD, jnp.maximum(segment_BL - 1, 0))


@jax.custom_vjp
def mixed(x_BSD, segment_BL):
  """The gather, whose gradient is a matrix product in place of a scatter."""
  return gathered(x_BSD, segment_BL)


def _mixed_backward(saved, grad_BLD):
  x_BSD, segment_BL = saved
  (grad,) = jax.vjp(lambda x: product(x, segment_BL), x_BSD)[1](grad_BLD)
  return grad, None


mixed.defvjp(lambda *args: (gathered(*args), args), _mixed_backward)
WAYS = {
  "one for the whole row (wrong: the least)": whole,
  "gathered": gathered,
  "product with ones and zeros": product,
  "gathered, its gradient a product": mixed,
}


def compile_layers(target: chips.Target, per_token):
  """Gradients of a loop of layers, one row on one device, compiled."""
  config = c.DiTConfig(remat=REMAT)
  model = pure(
    lambda rngs: stack(
      lambda rngs: streams.Block(config, rngs=rngs), LAYERS, rngs
    )
  )
  D, J, half = (
    config.heads * config.head_dim,
    LATENT + TEXT,
    (config.head_dim // 2),
  )
  mesh = sharding.make_mesh(c.MeshConfig(), devices(target)[:1])
  of = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.sharding(mesh))
  carry = tuple(of((1, n, D), jnp.bfloat16) for n in (LATENT, TEXT))
  row = streams.Shared(
    of((1, SEGMENTS, D), jnp.float32),
    of((1, LATENT), jnp.int32),
    of((1, TEXT), jnp.int32),
    (of((1, LATENT, half), jnp.float32),) * 2,
    *(of((1, J), jnp.int32),) * 4,
  )
  params = jax.tree.map(lambda x: of(x.shape, x.dtype), model.shapes)

  def gradients(params, carry, row, grad):
    def run(params, carry, condition):
      args = carry, row._replace(condition_BSD=condition)
      return model.apply(
        params, *args, method=functools.partial(scan_layers, remat=REMAT)
      )

    return jax.vjp(run, params, carry, row.condition_BSD)[1](grad)

  with jax.set_mesh(mesh), mock.patch.object(streams, "per_token", per_token):
    traced = jax.jit(gradients).trace(params, carry, row, carry)
    return traced.lower(lowering_platforms=(target.platform,)).compile()


def main(names: list[str]) -> None:
  for name in names:
    target = chips.target(name)
    prepare(target)
    for way, per_token in WAYS.items():
      compiled = compile_layers(target, per_token)
      line = {
        "part": "modulation",
        "compiled_for": name,
        "way": way,
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "gib_a_layer": Module(compiled.as_text()).traffic() / LAYERS / 2**30,
      }
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])
