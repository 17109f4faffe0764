"""What torch itself saves."""

import collections

import numpy as np
import pytest
import torch

from pyramid_jax.convert.torch_pickle import open_pickle
from pyramid_jax.tensors import TensorFileError


@pytest.mark.parametrize("new", [True, False])
def test_files_of_torch_are_read(tmp_path, new):
  state = collections.OrderedDict(
    a=torch.randn(3, 4),
    b=torch.randn(5).bfloat16(),
    c=torch.arange(4),
    d=torch.tensor(2.5),
    e=torch.randn(7, 2)[3:],
    f=torch.nn.Parameter(torch.randn(2, 1, 3)),
  )
  torch.save(
    {"state_dict": state, "epoch": 3}, tmp_path / "w.pth",
    _use_new_zipfile_serialization=new,
  )  # fmt: skip
  found = open_pickle(tmp_path / "w.pth")
  assert list(found) == list(state)
  for name, x in state.items():
    np.testing.assert_array_equal(
      np.asarray(found[name], np.float32), x.detach().float().numpy()
    )


def test_a_module_and_a_transposed_tensor_are_refused(tmp_path):
  torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pth")
  with pytest.raises(TensorFileError, match="torch.nn.*was not run"):
    open_pickle(tmp_path / "module.pth")
  torch.save({"a": torch.randn(3, 4).T}, tmp_path / "t.pth")
  with pytest.raises(TensorFileError, match="not row by row"):
    open_pickle(tmp_path / "t.pth")
