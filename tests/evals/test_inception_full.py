"""FID's features beside PyTorch's, from one file of random weights."""

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyramid_jax import sharding
from pyramid_jax.config import MeshConfig
from pyramid_jax.convert import inception, names
from pyramid_jax.convert.names import NameTableError
from pyramid_jax.evals import distance, features, frechet
from pyramid_jax.generate import export


def weights():
  """A state dict with the released file's names, drawn at random."""
  rng, state = np.random.default_rng(0), {}
  shapes = inception.make_inception().shapes
  for name, shape in names.torch_shapes(
    inception.inception_names(), shapes
  ).items():
    x = rng.normal(0, 0.2, shape)
    if name.endswith(("bn.weight", "running_var")):
      x = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
      x *= 5 * (2 / np.prod(shape[1:])) ** 0.5
    state[name] = torch.tensor(x, dtype=torch.float32)
  for name in [n for n in state if n.endswith("running_var")]:
    state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
  state["fc.weight"], state["fc.bias"] = torch.zeros(8, 2048), torch.zeros(8)
  return state


class Reference:
  """The network from functions of torch."""

  def __init__(self, state):
    self.state = state

  def conv(self, x, name, stride=1, padding=0):
    s = lambda part: self.state[f"{name}.{part}"]
    x = F.conv2d(x, s("conv.weight"), None, stride, padding)
    return F.relu(
      F.batch_norm(
        x, s("bn.running_mean"), s("bn.running_var"), s("bn.weight"),
        s("bn.bias"), False, 0.0, 1e-3,
      )
    )  # fmt: skip

  def path(self, x, block, *steps):
    for name, *rest in steps:
      x = self.conv(x, f"{block}.{name}", *rest)
    return x

  def average(self, x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

  def a(self, x, m):
    return torch.cat(
      [
        self.path(x, m, ("branch1x1",)),
        self.path(x, m, ("branch5x5_1",), ("branch5x5_2", 1, 2)),
        self.path(x, m, ("branch3x3dbl_1",), ("branch3x3dbl_2", 1, 1),
                  ("branch3x3dbl_3", 1, 1)),
        self.path(self.average(x), m, ("branch_pool",)),
      ], 1,
    )  # fmt: skip

  def b(self, x, m):
    return torch.cat(
      [
        self.path(x, m, ("branch3x3", 2)),
        self.path(x, m, ("branch3x3dbl_1",), ("branch3x3dbl_2", 1, 1),
                  ("branch3x3dbl_3", 2)),
        F.max_pool2d(x, 3, 2),
      ], 1,
    )  # fmt: skip

  def c(self, x, m):
    row, column = (1, (0, 3)), (1, (3, 0))
    return torch.cat(
      [
        self.path(x, m, ("branch1x1",)),
        self.path(x, m, ("branch7x7_1",), ("branch7x7_2", *row),
                  ("branch7x7_3", *column)),
        self.path(x, m, ("branch7x7dbl_1",), ("branch7x7dbl_2", *column),
                  ("branch7x7dbl_3", *row), ("branch7x7dbl_4", *column),
                  ("branch7x7dbl_5", *row)),
        self.path(self.average(x), m, ("branch_pool",)),
      ], 1,
    )  # fmt: skip

  def d(self, x, m):
    return torch.cat(
      [
        self.path(x, m, ("branch3x3_1",), ("branch3x3_2", 2)),
        self.path(x, m, ("branch7x7x3_1",), ("branch7x7x3_2", 1, (0, 3)),
                  ("branch7x7x3_3", 1, (3, 0)), ("branch7x7x3_4", 2)),
        F.max_pool2d(x, 3, 2),
      ], 1,
    )  # fmt: skip

  def e(self, x, m, pooled):
    three = self.path(x, m, ("branch3x3_1",))
    double = self.path(x, m, ("branch3x3dbl_1",), ("branch3x3dbl_2", 1, 1))
    return torch.cat(
      [
        self.path(x, m, ("branch1x1",)),
        self.path(three, m, ("branch3x3_2a", 1, (0, 1))),
        self.path(three, m, ("branch3x3_2b", 1, (1, 0))),
        self.path(double, m, ("branch3x3dbl_3a", 1, (0, 1))),
        self.path(double, m, ("branch3x3dbl_3b", 1, (1, 0))),
        self.path(pooled, m, ("branch_pool",)),
      ], 1,
    )  # fmt: skip

  def __call__(self, image_HW3):
    x = torch.tensor(image_HW3).permute(2, 0, 1)[None].float() / 255
    x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    x = self.conv(2 * x - 1, "Conv2d_1a_3x3", 2)
    x = self.conv(self.conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1)
    x = self.conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1")
    x = F.max_pool2d(self.conv(x, "Conv2d_4a_3x3"), 3, 2)
    for letter in "bcd":
      x = self.a(x, f"Mixed_5{letter}")
    x = self.b(x, "Mixed_6a")
    for letter in "bcde":
      x = self.c(x, f"Mixed_6{letter}")
    x = self.d(x, "Mixed_7a")
    x = self.e(x, "Mixed_7b", self.average(x))
    x = self.e(x, "Mixed_7c", F.max_pool2d(x, 3, 1, 1))
    return x.mean((2, 3))[0].numpy()


def test_features_and_fid_are_those_of_torch(tmp_path, monkeypatch):
  state = weights()
  # the released file was saved like this
  torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
  rng, sizes = np.random.default_rng(1), [(64, 90), (299, 299), (320, 200)]
  for folder in ("real", "fake"):
    for i, size in enumerate(sizes):
      image = rng.integers(0, 256, (1, *size, 3), np.uint8)
      export.write_clip(tmp_path / folder / f"{i}.png", image, 24)
  params = inception.load_inception(tmp_path / "w.pth")
  mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])  # no padding
  monkeypatch.setattr(distance, "_local_mesh", lambda: mesh)
  expected = {}
  for folder in ("real", "fake"):
    items = features.list_items(tmp_path / folder, "image")
    ((_, found),) = features.inception_features(items, params, mesh, 3)
    reference = Reference(state)
    with torch.no_grad():
      expected[folder] = np.stack(
        [reference(features.read(i)[0]) for i in items]
      )
    # float32 through 48 convolutions
    np.testing.assert_allclose(
      found, expected[folder], atol=1e-5 * np.abs(expected[folder]).max()
    )
  result = distance.of_images(
    tmp_path / "real", tmp_path / "fake", tmp_path / "w.pth", batch=3
  )
  moments = [frechet.Moments.of(x) for x in expected.values()]
  np.testing.assert_allclose(
    result.frechet, frechet.frechet_distance(*moments), rtol=1e-3
  )
  assert (result.size, result.real, result.fake) == (2048, 3, 3)


def test_the_network_has_its_published_size():
  model = inception.make_inception()
  # 21,785,568 trained parameters and two statistics of 17,216 channels
  assert model.size == 21_785_568 + 2 * 17_216
  torch_shapes = names.torch_shapes(inception.inception_names(), model.shapes)
  name = "Mixed_6c.branch7x7dbl_2.conv.weight"
  assert torch_shapes[name] == (160, 160, 7, 1)


def test_a_file_with_other_tensors_is_refused(tmp_path):
  state = weights()
  del state["Mixed_6a.branch3x3.conv.weight"]
  state["Mixed_6z.bn.bias"] = torch.zeros(3)
  torch.save(state, tmp_path / "w.pth")
  with pytest.raises(NameTableError) as error:
    inception.load_inception(tmp_path / "w.pth")
  for line in ("1 missing", "6a.branch3x3.conv.weight", "1 unknown", "6z.bn"):
    assert line in str(error.value)
