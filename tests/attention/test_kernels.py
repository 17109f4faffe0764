"""One packed row through each accelerator's kernels, interpreted.

More of them, and what else they promise, is in test_kernels_full.py.
"""

import pytest

from tests.attention import kernels, packings


@pytest.mark.parametrize(
  "kernel", [kernels.TPU, kernels.GPU], ids=["tpu", "gpu"]
)
def test_a_packed_row_is_dense_softmax_forward_and_backward(kernel):
  segment, frame, *qkv = packings.rows(3, 1, 300, N=1)
  start, end = packings.key_ranges(segment, frame)
  # float32 sums of up to 300 terms of size 1, against float64
  kernels.compare(kernel, *qkv, start, end)
