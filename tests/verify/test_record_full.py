"""What the recording script writes is what was recorded."""

import types

import numpy as np
import pytest
import torch

from pyramid_jax.verify import file as file_lib
from pyramid_jax.verify import record_torch
from pyramid_jax.verify.report import Report
from pyramid_jax.verify.run import verify
from tests import reference


class Replayed(torch.nn.Module):
  """Has the weights of a reference file and answers its inputs from it."""

  def __init__(self, file, run):
    super().__init__()
    self.config, self.file, self.run = file.config["model"], file, run
    for name, x in file.under("param/").items():
      self.register_buffer(name.replace(".", "/"), torch.tensor(x))

  def state_dict(self):
    state = super().state_dict()
    return {name.replace("/", "."): x for name, x in state.items()}

  def forward(
    self, sample, timestep_ratio, encoder_hidden_states,
    encoder_attention_mask, pooled_projections,
  ):  # fmt: skip
    outputs = self.file.under(f"out/{self.run}/s")
    return [torch.tensor(x) for _, x in sorted(outputs.items())]


def arguments(file, run):
  arrays = file.under(f"in/{run}/")
  columns = sorted({k.split("/")[1] for k in arrays if k.startswith("sample")})
  sample = [
    [
      torch.tensor(x)
      for _, x in sorted(file.under(f"in/{run}/sample/{column}/").items())
    ]
    for column in columns
  ]
  rest = {k: torch.tensor(arrays[k]) for k in record_torch.ARGUMENTS[2:]}
  return dict(
    sample=sample, timestep_ratio=torch.tensor(arrays["timestep"]), **rest
  )


@pytest.mark.parametrize("name", ["mmdit_train", "flux_train"])
def test_a_recorded_file_is_verified(name, tmp_path):
  file, run = reference.load(name), "cols3_b6"
  module, path = Replayed(file, run), tmp_path / "recorded.npz"
  with record_torch.Recorder(module, path):
    module(**arguments(file, run))
  found = file_lib.read(path)
  assert file_lib.kind(found) == file_lib.kind(file)
  for key, x in file.under(f"in/{run}/").items():
    if not key.startswith("target"):
      np.testing.assert_array_equal(found[f"in/call00/{key}"], x)
  report = Report(found)
  verify(found, report)
  assert report.passed, report.summary()
  assert [x.key for x in report.lines] == [f"out/call00/s{i}" for i in range(3)]


def test_a_recorded_vae_is_verified(tmp_path):
  weights, file = reference.load("vae_weights"), reference.load("vae_image")

  class VAE(Replayed):
    def encode(self, x):
      q = types.SimpleNamespace(
        mean=torch.tensor(file["out/mean"]),
        logvar=torch.tensor(file["out/logvar"]),
      )
      return types.SimpleNamespace(latent_dist=q)

    def decode(self, z):
      return types.SimpleNamespace(sample=torch.tensor(file["out/decode"]))

  x, z = (torch.tensor(file[f"in/{k}"]) for k in "xz")
  path = tmp_path / "vae.npz"
  record_torch.record_vae(VAE(weights, ""), path, x=x, z=z, weights="w.npz")
  report = Report(file_lib.read(path))
  verify(report.file, report)
  assert report.passed, report.summary()
  assert [line.key for line in report.lines] == ["out/moments", "out/decode"]


def test_gradients_and_parts_are_recorded(tmp_path):
  class Small(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.config = dict(num_layers=1)
      self.proj_out = torch.nn.Linear(4, 4)

    def forward(self, sample, **rest):
      return [self.proj_out(clips[-1]) for clips in sample]

  torch.manual_seed(0)
  module, x = Small(), torch.randn(2, 1, 1, 2, 4)
  rest = {key: torch.zeros(2) for key in record_torch.ARGUMENTS[1:]}
  recorder = record_torch.Recorder(module, tmp_path / "r.npz", parts=True)
  target = torch.zeros_like(x)
  recorder.loss("step", [target], sample=[[x]], **rest)
  found = file_lib.read(tmp_path / "r.npz")
  expected = module.proj_out(x)
  np.testing.assert_allclose(
    found["out/step/loss"], (expected**2).mean().item()
  )
  np.testing.assert_array_equal(
    found["mid/step/proj_out"], expected.detach().numpy()
  )
  np.testing.assert_array_equal(
    found["grad/step/proj_out.weight"], module.proj_out.weight.grad.numpy()
  )
