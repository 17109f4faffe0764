"""A run that trains in seconds, on random latents."""

import dataclasses

from pyramid_jax.config import (
  Config,
  DiTConfig,
  LatentDataConfig,
  MeshConfig,
  OptimizerConfig,
  Source,
  TrainConfig,
)
from tests.data import random_store

MODEL = DiTConfig(
  layers=2, heads=4, head_dim=8, latent_channels=random_store.CHANNELS,
  text_dim=random_store.TEXT_DIM, pooled_dim=random_store.POOLED_DIM,
  table_size=16, table_base=8, dtype="float32",
)  # fmt: skip


def config(store, steps=8, **changes) -> Config:
  """A DiT on the store; `changes` are "group.setting" in double underscores."""
  base = Config(
    mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    model=MODEL,
    latents=LatentDataConfig(
      sources=(Source(str(store)),), rows=8, latent_tokens=192,
      text_tokens=32, segments=8, window=16,
    ),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup=1),
    train=TrainConfig(steps=steps, log_every=1, save_every=3),
  )  # fmt: skip
  for name, value in changes.items():
    group, setting = name.split("__")
    part = dataclasses.replace(getattr(base, group), **{setting: value})
    base = dataclasses.replace(base, **{group: part})
  return base
