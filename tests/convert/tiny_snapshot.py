"""A small snapshot in the released layout with random weights."""

import dataclasses
import pathlib

import jax
import numpy as np

from pyramid_jax.config import DiTConfig, VAEConfig
from pyramid_jax.convert import component, snapshot
from pyramid_jax.convert.models import CAUSAL_VAE, DIT
from pyramid_jax.convert.tiny_text import write_tiny_text_encoders

WIDTH = 32  # of text and pooled vectors
MMDIT = DiTConfig(
  layers=3, heads=2, head_dim=16, latent_channels=4, text_dim=WIDTH,
  pooled_dim=WIDTH, table_size=16, table_base=8, dtype="float32",
)  # fmt: skip
FLUX = dataclasses.replace(
  MMDIT, kind="flux", layers=2, single_layers=2, rotary_dims=(4, 6, 6),
  table_size=192, table_base=64,
)  # fmt: skip
VAE = VAEConfig(
  channels=(4, 8), latent_channels=4, groups=2, encoder_blocks=1,
  decoder_blocks=1, down_space=(True, False), down_time=(True, False),
  dtype="float32",
)  # fmt: skip
TRANSFORMER = {"sd3": MMDIT, "flux": FLUX}
FOLDERS = {
  "sd3": "diffusion_transformer_768p",
  "flux": "diffusion_transformer_384p",
}


def write(root: pathlib.Path, kind: str, dtype: str = "bfloat16"):
  """Writes transformer, VAE and text encoders; shards and one file."""
  write_tiny_text_encoders(
    root, ["a red circle", "a blue square"], kind=kind, width=WIDTH
  )
  for name, model, config in (
    (FOLDERS[kind], DIT, TRANSFORMER[kind]),
    ("causal_video_vae", CAUSAL_VAE, VAE),
  ):
    write_model(root / name, model, config, dtype)


def write_model(folder: pathlib.Path, model, config, dtype: str = "bfloat16"):
  """One component with random weights, in several shards."""
  rng = np.random.default_rng(0)
  draw = lambda s: (rng.standard_normal(s.shape) * 0.1).astype(dtype)
  params = jax.tree.map(draw, model.make(config).shapes)
  snapshot.write_component(
    folder,
    model.write_config(config),
    component.torch_tensors(model, config, params),
    snapshot.NAMES[1],
    shard_bytes=20_000,
  )
