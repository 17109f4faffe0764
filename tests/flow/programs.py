"""The sampler's programs, compiled quickly."""

import functools

import jax

from pyramid_jax.flow.sampler import sample_unit, sample_unit_loop

# XLA's own passes run, LLVM's are off: compiling is most of these tests' time.
quickly = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
STATIC = ("schedule", "steps", "patch", "upsample")
program = quickly(sample_unit, static_argnames=STATIC)
loop = quickly(sample_unit_loop, static_argnames=STATIC)
