"""The kernels of accelerators, interpreted, against the definition."""

import pytest

from tests.attention import kernels, packings, streams

each_kernel = pytest.mark.parametrize(
  "kernel", [kernels.TPU, kernels.GPU], ids=["tpu", "gpu"]
)


class TestTPU(kernels.Skipping):
  kernel = kernels.TPU
  query_block = kernels.SMALL_TPU.query
  key_block = kernels.SMALL_TPU.key


class TestGPU(kernels.Skipping):
  kernel = kernels.GPU
  query_block = max(tile.query for tile in kernels.SMALL_GPU)
  key_block = max(tile.key for tile in kernels.SMALL_GPU)


@pytest.mark.parametrize(
  "kernel", [kernels.TPU, kernels.GPU], ids=["tpu", "gpu"]
)
def test_queries_may_be_fewer_than_the_keys_and_of_gappy_ranges(kernel):
  segment, frame, *qkv = packings.rows(0, 2, 300, N=2)
  start, end = packings.key_ranges(segment, frame)
  q, start, end = (x[:, ::7] for x in (qkv[0], start, end))
  kernels.compare(kernel, q, *qkv[1:], start, end)


@pytest.mark.parametrize(
  "kernel", [kernels.TPU, kernels.GPU], ids=["tpu", "gpu"]
)
@pytest.mark.parametrize("mesh", [(2, 1, 1, 4), (1, 1, 2, 4)])
def test_tokens_split_over_devices_attend_as_on_one(kernel, mesh):
  streams.check(mesh, kernel)
