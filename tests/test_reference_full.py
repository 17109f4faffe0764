"""The committed reference files hold the numbers of the shared ones."""

import numpy as np
import pytest

from tests import reference

SHARED = [f for f in sorted(reference.COMMITTED.glob("*.npz"))
          if (reference.SHARED / f.name).exists()]  # fmt: skip


@pytest.mark.parametrize("file", SHARED, ids=lambda f: f.stem)
def test_nothing_but_intermediates_was_left_out(file):
  committed, shared = map(reference.read, (file, reference.SHARED / file.name))
  assert committed.config == shared.config
  assert committed.arrays.keys() <= shared.arrays.keys()
  for key, array in committed.arrays.items():
    np.testing.assert_array_equal(array, shared[key])
  left_out = shared.arrays.keys() - committed.arrays.keys()
  assert not [k for k in left_out if k.startswith(("param/", "out/"))]
