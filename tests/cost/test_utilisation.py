"""The MFU of a run: known chips, the run's own rows."""

import jax
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import (
  Config,
  DiTConfig,
  EncodeConfig,
  LatentDataConfig,
  MeshConfig,
)
from pyramid_jax.cost import chips
from pyramid_jax.cost.flops import training
from pyramid_jax.cost.utilisation import utilisation
from pyramid_jax.cost.workload import measure

SMALL = Config(
  model=DiTConfig(layers=2, heads=2, head_dim=16, text_dim=8, pooled_dim=4),
  encode=EncodeConfig(sizes=((64, 128),), min_frames=1, max_frames=17),
  latents=LatentDataConfig(
    latent_tokens=256, text_tokens=512, segments=16, rows=8, window=64
  ),
)


@pytest.mark.parametrize(
  "kind, name",
  [
    ("TPU v4", "v4"),
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v5p", "v5p"),
    ("TPU v6 lite", "v6e"),
    ("TPU7x", "tpu7x"),
    ("NVIDIA A100-SXM4-80GB", "a100"),
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H200", "h200"),
  ],
)
def test_devices_are_known_by_what_jax_calls_them(kind, name):
  assert chips.of_kind(kind).name == name


@pytest.mark.parametrize(
  "kind", ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "cpu"]
)
def test_models_with_other_peaks_are_not_known(kind):
  assert chips.of_kind(kind) is None


def test_mfu_is_the_needed_operations_a_second_by_the_peak(monkeypatch):
  mesh = sharding.make_mesh(MeshConfig())
  assert utilisation(SMALL, mesh) is None  # no peak of a CPU is known
  monkeypatch.setattr(chips, "of_kind", lambda kind: chips.CHIPS["h100"])
  assert utilisation(Config(kind="vae"), mesh) is None
  row = measure(SMALL, chips.CHIPS["h100"].tile)
  need = training(SMALL.model, row.latent, row.text, row.samples, row.pairs)
  steps = 3.0
  expected = steps * SMALL.latents.rows * need.total
  expected /= len(jax.devices()) * 989e12
  np.testing.assert_allclose(utilisation(SMALL, mesh)(steps), expected)
