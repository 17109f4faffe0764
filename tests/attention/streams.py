"""Text and latent streams of packed rows, attended on a mesh of any shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from pyramid_jax import sharding
from pyramid_jax.attention import attend
from pyramid_jax.config import MeshConfig
from tests.attention import packings

TEXT, LATENT = 12, 32


def check(mesh, implementation="xla"):
  """Results and gradients on a mesh against the definition.

  Returns the jaxpr of what ran, as text.
  """
  rng = np.random.default_rng(0)
  B, J = 8, TEXT + LATENT
  segment, frame, *qkv = packings.rows(1, B, J)
  start, end = packings.key_ranges(segment, frame)
  grad = rng.normal(size=qkv[0].shape).astype(np.float32)
  mask = packings.dense_mask(segment, frame)
  expected = (
    packings.dense(*qkv, mask),
    *packings.dense_gradients(*qkv, mask, grad),
  )
  order = np.stack([rng.permutation(J) for _ in range(B)])
  inverse = np.argsort(order, 1)
  apart = lambda x: np.take_along_axis(x, inverse[..., None, None], 1)

  def both(qkv, grad, order, inverse, start, end):
    def joint(q, k, v):
      text, latent = (
        tuple(x[:, s] for x in (q, k, v))
        for s in (slice(TEXT), slice(TEXT, None))
      )
      parts = attend.attend_joint(
        text, latent, order, inverse, start, end,
        batch_axes=("data", "fsdp"), head_axes=("tensor",),
        token_axis="sequence", implementation=implementation,
      )  # fmt: skip
      return jnp.concatenate(parts, 1)

    out, pull = jax.vjp(joint, *qkv)
    return out, *pull(grad)

  with jax.set_mesh(sharding.make_mesh(MeshConfig(*mesh))):
    place = jax.NamedSharding(jax.sharding.get_mesh(), P(("data", "fsdp")))
    args = jax.device_put(
      (tuple(map(apart, qkv)), apart(grad), order, inverse, start, end), place
    )
    program = jax.jit(both).trace(*args)
    actual = jax.jit(both)(*args)
  for name, a, b in zip(("out", "q", "k", "v"), actual, expected, strict=True):
    # float32 sums of 44 terms of size 1, against float64
    np.testing.assert_allclose(a, apart(b), atol=4e-6, err_msg=name)
  return str(program.jaxpr)
