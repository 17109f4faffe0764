"""Range attention in plain XLA."""

import functools

import numpy as np
import pytest

from pyramid_jax.attention import attend, xla
from tests.attention import kernels, packings


def in_chunks(chunk):
  return attend.Kernel(
    *(functools.partial(f, chunk=chunk) for f in (xla.forward, xla.backward))
  )


class TestXLA(kernels.RangeAttention):
  kernel = in_chunks(128)


@pytest.mark.parametrize("chunk", [16, 70])
def test_the_chunk_does_not_matter(chunk):
  segment, frame, *qkv = packings.rows()
  start, end = packings.key_ranges(segment, frame)
  # float32 sums of 70 terms against float64
  kernels.compare(in_chunks(chunk), *qkv, start, end, atol=2e-6)


def test_queries_may_be_others_than_the_keys():
  segment, frame, *qkv = packings.rows()
  start, end = packings.key_ranges(segment, frame)
  some = np.random.default_rng(0).permutation(70)[:33]
  q, start, end = (x[:, some] for x in (qkv[0], start, end))
  kernels.compare(in_chunks(16), q, *qkv[1:], start, end, atol=2e-6)
