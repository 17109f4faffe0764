"""A small store of latents whose clips follow from their ids."""

import ml_dtypes
import numpy as np

from pyramid_jax.data import latents
from pyramid_jax.data.latent_writer import LatentWriter, split_ids

METADATA = latents.Metadata(
  vae_fingerprint="vae-1",
  text_fingerprint="text-1",
  latent_channels=4,
  text_dim=6,
  pooled_dim=3,
  statistics=latents.Statistics(0.1, 0.5, -0.2, 0.25),
  text_dtype="bfloat16",
  vae_path="/somewhere/vae",
)
IDS = [f"clip{i:02d}" for i in range(10)]


def null_prompt(n=2):
  rng = np.random.default_rng(99)
  text = rng.normal(size=(n, 6)).astype(ml_dtypes.bfloat16)
  return latents.NullPrompt(text, rng.normal(size=3).astype(np.float32))


def example(id):
  """A clip whose contents and sizes follow from its id."""
  rng = np.random.default_rng(list(id.encode()))
  shape = (int(rng.integers(1, 4)), 8, int(rng.choice([8, 16])), 4)
  return {
    "id": id,
    "caption": f"a red circle, {id} é",
    "latent": rng.normal(size=shape).astype(np.float32),
    "text": rng.normal(size=(int(rng.integers(1, 9)), 6)).astype(
      ml_dtypes.bfloat16
    ),
    "pooled": rng.normal(size=3).astype(np.float32),
    "frames": 1 + 8 * (shape[0] - 1),
    "height": 64,
    "width": 8 * shape[2],
  }


def write(
  path, ids=IDS, per_shard=3, skip=(), metadata=METADATA, null=None, **settings
):
  null = null or null_prompt()
  writer = LatentWriter(
    path, metadata, null, split_ids(ids, per_shard), settings, per_shard
  )
  for index in writer.missing():
    with writer.shard(index) as shard:
      for id in writer.shards[index]:
        if id in skip:
          shard.skip(id, "it is broken", video=f"{id}.mp4")
        else:
          shard.add(example(id))
  writer.finish()
  return latents.open_store(path)


def assert_same_example(actual, desired):
  assert actual.keys() == desired.keys()
  for key, value in desired.items():
    assert np.asarray(actual[key]).dtype == np.asarray(value).dtype
    np.testing.assert_array_equal(actual[key], value)
