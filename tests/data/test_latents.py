"""Stored latents: whatever was written is read."""

import dataclasses
import json
import os
import pathlib

import ml_dtypes
import numpy as np
import pytest
import tensorflow_datasets as tfds

from pyramid_jax.config import ConfigError
from pyramid_jax.data import latents
from pyramid_jax.data.latent_writer import LatentWriter
from tests.data.named_store import (
  IDS,
  METADATA,
  assert_same_example,
  example,
  null_prompt,
  write,
)

ROOT = pathlib.Path(__file__).parents[2]


def test_the_null_prompt_is_of_the_captions_kind(tmp_path):
  """As encoders give it, in float32, and where it was once stored so."""
  given = null_prompt()
  given = latents.NullPrompt(given.text.astype(np.float32), given.pooled)
  store = write(tmp_path / "new", null=given)
  with np.load(tmp_path / "new" / "null_prompt.npz") as file:
    kept = dict(file)
  assert str(kept["dtype"]) == "bfloat16"
  np.testing.assert_array_equal(store.null.text, null_prompt().text)
  kept |= {
    "dtype": np.array("float32"),
    "text": np.frombuffer(given.text.tobytes(), np.uint8),
  }
  np.savez(tmp_path / "new" / "null_prompt.npz", **kept)
  null = latents.open_store(tmp_path / "new").null
  assert null.text.dtype == store[0]["text"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(null.text, null_prompt().text)


def test_a_clip_is_read_as_it_was_written(tmp_path):
  store = write(tmp_path / "s")
  assert len(store) == len(IDS)
  for i, id in enumerate(IDS):
    assert_same_example(store[i], example(id))


def test_sizes_metadata_and_null_prompt_come_back(tmp_path):
  store = write(tmp_path / "s")
  clips = [example(id) for id in IDS]
  shapes = np.array([c["latent"].shape[:3] for c in clips])
  np.testing.assert_array_equal(store.lengths.frames, shapes[:, 0])
  np.testing.assert_array_equal(store.lengths.height, shapes[:, 1])
  np.testing.assert_array_equal(store.lengths.width, shapes[:, 2])
  np.testing.assert_array_equal(
    store.lengths.text, [len(c["text"]) for c in clips]
  )
  assert store.metadata == METADATA
  assert store.null.text.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(store.null.text, null_prompt().text)
  np.testing.assert_array_equal(store.null.pooled, null_prompt().pooled)


def test_tfds_reads_the_folder(tmp_path):
  # one shard of the four is empty
  write(tmp_path / "s", skip=IDS[3:6])
  source = tfds.builder_from_directory(tmp_path / "s").as_data_source()
  records = list(source["train"])
  kept = IDS[:3] + IDS[6:]
  assert [r["id"].decode() for r in records] == kept
  first, record = example(kept[0]), records[0]
  for key in ("latent", "text"):
    array = np.frombuffer(
      record[key], np.dtype(record[f"{key}_dtype"].decode())
    )
    array = array.reshape(record[f"{key}_shape"])
    np.testing.assert_array_equal(array, first[key])
  for key in ("pooled", "frames", "height", "width"):
    np.testing.assert_array_equal(record[key], first[key])
  assert [x.decode() for x in record["caption"]] == [first["caption"]]


def test_skipped_inputs_are_named_with_their_reason(tmp_path):
  store = write(tmp_path / "s", skip=["clip04", "clip09"])
  assert len(store) == 8
  lines = (tmp_path / "s" / "skipped.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"id": id, "reason": "it is broken", "video": f"{id}.mp4"}
    for id in ("clip04", "clip09")
  ]


def test_statistics_normalise_first_and_later_frames():
  x = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
  y = METADATA.statistics.normalise(x)
  np.testing.assert_allclose(y[0], (x[0] - 0.1) * 0.5, atol=1e-6)
  np.testing.assert_allclose(y[1:], (x[1:] + 0.2) * 0.25, atol=1e-6)
  np.testing.assert_allclose(METADATA.statistics.restore(y), x, atol=1e-6)


def test_fingerprint_follows_the_contents_not_the_shards(tmp_path):
  store = write(tmp_path / "a")
  assert write(tmp_path / "b", ids=IDS[:9]).fingerprint != store.fingerprint
  moved = dataclasses.replace(METADATA, vae_path="/elsewhere")
  same = write(tmp_path / "c", metadata=moved)
  assert same.fingerprint == store.fingerprint


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"latent": np.zeros((1, 8, 8, 5))}, "latent of 'clip00' has shape"),
    ({"text": np.zeros((0, 6))}, "text of 'clip00' has shape"),
    ({"pooled": np.array([0, np.nan, 0])}, "non-finite"),
  ],
)
def test_a_clip_that_does_not_fit_is_named(tmp_path, change, message):
  writer = LatentWriter(tmp_path, METADATA, null_prompt(), [IDS[:1]])
  with pytest.raises(ValueError, match=message), writer.shard(0) as shard:
    shard.add(example(IDS[0]) | change)


def test_a_store_that_does_not_say_its_settings_is_gone_on_with(tmp_path):
  """And is known by the fingerprint that it had."""
  path = tmp_path / "s"
  store = write(path)
  file = path / "metadata.json"
  values = json.loads(file.read_text())
  del values["encode"]
  file.write_text(json.dumps(values))
  assert write(path, fps=24.0).fingerprint == store.fingerprint
  assert write(tmp_path / "t", fps=24.0).fingerprint == store.fingerprint


def test_a_missing_or_foreign_store_is_one_clear_error(tmp_path):
  with pytest.raises(ConfigError, match="no stored latents"):
    latents.open_store(tmp_path / "nowhere")
  write(tmp_path / "s")
  file = tmp_path / "s" / "metadata.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 0}))
  with pytest.raises(ConfigError, match="format version 0"):
    latents.open_store(tmp_path / "s")
  write(tmp_path / "t")
  (tmp_path / "t" / latents.shard_name(2, 4)).unlink()
  with pytest.raises(ConfigError, match="lacks 1 of its 4 shards"):
    latents.open_store(tmp_path / "t")


def test_stores_of_a_mixture_must_share_their_encoders(tmp_path):
  write(tmp_path / "a")
  other = dataclasses.replace(METADATA, text_fingerprint="text-2")
  write(tmp_path / "b", metadata=other)
  with pytest.raises(ConfigError, match="text_fingerprint: 'text-1' and"):
    latents.open_stores([tmp_path / "a", tmp_path / "b"])
  with pytest.raises(ConfigError, match="sources is empty"):
    latents.open_stores([])


def test_a_store_of_nothing_is_an_error(tmp_path):
  with pytest.raises(ConfigError, match="all 10 inputs were skipped"):
    write(tmp_path / "s", skip=IDS)
  assert not os.path.exists(tmp_path / "s" / "metadata.json")
