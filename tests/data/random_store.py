"""Stores of random latents: all that packing and rows need of a dataset."""

import numpy as np

from pyramid_jax.data import latents
from pyramid_jax.data.latent_writer import LatentWriter, split_ids

CHANNELS, TEXT_DIM, POOLED_DIM = 4, 6, 3
STATISTICS = latents.Statistics(0.1, 0.5, -0.2, 0.25)
METADATA = latents.Metadata(
  vae_fingerprint="vae-1",
  text_fingerprint="text-1",
  latent_channels=CHANNELS,
  text_dim=TEXT_DIM,
  pooled_dim=POOLED_DIM,
  statistics=STATISTICS,
)
NULL = latents.NullPrompt(
  np.full((2, TEXT_DIM), 7, np.float32), np.full(POOLED_DIM, 7, np.float32)
)


def example(seed, frames=(1, 4), sizes=((16, 16), (8, 24)), text=(1, 9)):
  """A random clip, float32 throughout."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  height, width = sizes[rng.integers(len(sizes))]
  count = int(rng.integers(*frames, endpoint=True))
  return {
    "id": f"clip {seed}",
    "caption": "a clip",
    "latent": normal(count, height, width, CHANNELS),
    "text": normal(int(rng.integers(*text, endpoint=True)), TEXT_DIM),
    "pooled": normal(POOLED_DIM),
    "frames": 1 + 8 * (count - 1),
    "height": 8 * height,
    "width": 8 * width,
  }


def write(path, n, seed=0, **kinds):
  """Writes n random clips and opens the store."""
  clips = {c["id"]: c for c in (example(seed + i, **kinds) for i in range(n))}
  writer = LatentWriter(path, METADATA, NULL, split_ids(list(clips), 16))
  for index in writer.missing():
    with writer.shard(index) as shard:
      for id in writer.shards[index]:
        shard.add(clips[id])
  writer.finish()
  return latents.open_store(path)
