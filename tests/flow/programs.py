"""The sampler's programs, compiled quickly."""

import functools

import jax

from pyramid_jax.flow.sampler import STATIC, sample_unit, sample_unit_loop

# XLA's own passes run, LLVM's are off: compiling is most of these tests' time.
quickly = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
program = quickly(sample_unit, static_argnames=STATIC)
loop = quickly(sample_unit_loop, static_argnames=STATIC)
