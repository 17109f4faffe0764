"""Stored latents: whatever was written is read, and a kill loses nothing."""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorflow_datasets as tfds

from pyramid_jax.config import ConfigError, UserError
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
ROOT = pathlib.Path(__file__).parents[2]


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


def assert_same_example(actual, desired):
  assert actual.keys() == desired.keys()
  for key, value in desired.items():
    assert np.asarray(actual[key]).dtype == np.asarray(value).dtype
    np.testing.assert_array_equal(actual[key], value)


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


def test_a_failed_shard_is_redone_and_the_finished_ones_are_kept(tmp_path):
  path = tmp_path / "s"
  shards = split_ids(IDS, 3)
  writer = LatentWriter(path, METADATA, null_prompt(), shards)
  with writer.shard(0) as shard:
    for id in shards[0]:
      shard.add(example(id))
  kept = (path / latents.shard_name(0, len(shards))).stat()
  with pytest.raises(KeyboardInterrupt), writer.shard(1) as shard:
    shard.add(example(shards[1][0]))
    raise KeyboardInterrupt
  assert writer.missing() == [1, 2, 3]
  assert writer.done_ids == set(shards[0])
  with pytest.raises(ConfigError, match="incomplete"):
    latents.open_store(path)
  with pytest.raises(ConfigError, match="lacks 3 of 4 shards"):
    writer.finish()
  store = write(path)
  assert [store[i]["id"] for i in range(len(store))] == IDS
  after = (path / latents.shard_name(0, len(shards))).stat()
  assert (after.st_ino, after.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
  assert not list(path.glob("*.partial"))
  assert store.fingerprint == write(tmp_path / "other").fingerprint


def test_a_shard_with_a_forgotten_clip_is_not_finished(tmp_path):
  writer = LatentWriter(tmp_path, METADATA, null_prompt(), [IDS[:2]])
  forgotten = pytest.raises(ValueError, match="neither added nor skipped")
  with forgotten, writer.shard(0) as shard:
    shard.add(example(IDS[0]))
  twice = pytest.raises(ValueError, match="given twice")
  with twice, writer.shard(0) as shard:
    shard.add(example(IDS[0]))
    shard.add(example(IDS[0]))
  assert writer.missing() == [0]


# A process that imports everything, then forks writers of the folder given.
# Writer k is killed before its (1 + k % 9)-th step, a step being a record or a
# rename; it prints how many it killed before one came through.
KILLER = """
import os, signal, sys
from pyramid_jax.data import latent_writer
from tests.data import test_latents

def mortal(function):
  def step(*args):
    global left
    left -= 1
    if not left:
      os.kill(os.getpid(), signal.SIGKILL)
    return function(*args)
  return step

for k in range(100):
  if not (child := os.fork()):
    left = 1 + k % 9
    os.replace = mortal(os.replace)
    latent_writer.ShardWriter.add = mortal(latent_writer.ShardWriter.add)
    test_latents.write(sys.argv[1])
    os._exit(0)
  status = os.waitpid(child, 0)[1]
  if os.WIFSIGNALED(status):
    assert os.WTERMSIG(status) == signal.SIGKILL
  else:
    break
print("killed", k, os.WEXITSTATUS(status))
"""


def test_kill_while_writing_loses_and_doubles_nothing(tmp_path):
  path = tmp_path / "s"
  run = subprocess.run(
    [sys.executable, "-c", KILLER, str(path)],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  )
  word, kills, status = run.stdout.split()[-3:]
  assert (word, status) == ("killed", "0")
  assert int(kills) >= 5
  store = latents.open_store(path)
  assert [store[i]["id"] for i in range(len(store))] == IDS
  for i, id in enumerate(IDS):
    assert_same_example(store[i], example(id))
  assert store.fingerprint == write(tmp_path / "whole").fingerprint


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
  """A limit on file sizes stands for the disk."""
  path, shards = tmp_path / "s", split_ids(IDS, 5)
  writer = LatentWriter(path, METADATA, null_prompt(), shards)
  before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    full = pytest.raises(
      UserError, match="Make room, then run the same command"
    )
    with full, writer.shard(0) as shard:
      for id in shards[0]:
        shard.add(example(id))
      resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)
  assert writer.missing() == [0, 1]
  assert {f.name for f in path.iterdir()} == {"null_prompt.npz", "writing.json"}
  assert [e["id"] for e in write(path, per_shard=5)] == IDS


def test_shards_may_be_written_at_the_same_time(tmp_path):
  shards = split_ids(IDS, 5)
  writer = LatentWriter(tmp_path / "s", METADATA, null_prompt(), shards)
  with writer.shard(0) as first, writer.shard(1) as second:
    for one, other in zip(*shards, strict=True):
      first.add(example(one))
      second.add(example(other))
  writer.finish()
  store = latents.open_store(tmp_path / "s")
  assert [e["id"] for e in store] == IDS


def test_writing_again_changes_nothing(tmp_path):
  path = tmp_path / "s"
  store = write(path)
  before = {f.name: f.stat().st_mtime_ns for f in path.iterdir()}
  assert write(path).fingerprint == store.fingerprint
  assert {f.name: f.stat().st_mtime_ns for f in path.iterdir()} == before


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


def test_another_encoder_cannot_continue_a_folder(tmp_path):
  write(tmp_path / "s")
  other = dataclasses.replace(METADATA, vae_fingerprint="vae-2")
  with pytest.raises(ConfigError, match="vae_fingerprint 'vae-1' -> 'vae-2'"):
    write(tmp_path / "s", metadata=other)
  with pytest.raises(ConfigError, match=r"other inputs \(10 -> 9\)"):
    write(tmp_path / "s", ids=IDS[1:])


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
  "ids, per_shard, message",
  [
    (IDS[:1], 3, r"settings: other inputs \(10 -> 1\) \(its -> now\)\."),
    (IDS, 5, r"settings: another --shard \(3 -> 5\) \("),
    (IDS[1:], 5, r"inputs \(10 -> 9\) and another --shard \(3 -> 5\) \("),
    (["a", *IDS[1:]], 3, r"settings: other inputs, as many \(10\) \("),
  ],
)
def test_other_inputs_or_shards_are_told_in_numbers(
  tmp_path, ids, per_shard, message, finished
):
  path = tmp_path / "s"

  def begin(ids, n):
    split = split_ids(ids, n)
    return LatentWriter(path, METADATA, null_prompt(), split, per_shard=n)

  begin(IDS, 3)
  if finished:
    write(path)
  with pytest.raises(ConfigError, match=message) as error:
    begin(ids, per_shard)
  assert "'" not in str(error.value)  # no hash
  begin(IDS, 3)


def test_a_folder_begun_before_its_inputs_were_counted_goes_on(tmp_path):
  path, split = tmp_path / "s", split_ids(IDS, 3)
  LatentWriter(path, METADATA, null_prompt(), split, per_shard=3)
  file = path / "writing.json"
  values = json.loads(file.read_text())
  assert values.pop("inputs") == {"clips": 10, "per_shard": 3}
  file.write_text(json.dumps(values))
  with pytest.raises(ConfigError, match="inputs, or another --shard"):
    write(path, per_shard=5)
  assert len(write(path)) == len(IDS)


ENCODE = """
import sys
from pyramid_jax.data import latent_record
from tests.data import test_latents

record = latent_record.encode([test_latents.example("clip00")])
sys.stdout.buffer.write(record)
"""


def test_a_record_has_the_same_bytes_in_every_process():
  records = {
    subprocess.run(
      [sys.executable, "-c", ENCODE],
      capture_output=True,
      cwd=ROOT,
      check=True,
      env={**os.environ, "PYTHONHASHSEED": str(seed)},
    ).stdout
    for seed in (1, 2)
  }
  assert len(records) == 1


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_cannot_continue_a_folder(tmp_path, finished):
  path, settings = tmp_path / "s", {"fps": 24.0, "sizes": ((32, 64),)}
  LatentWriter(path, METADATA, null_prompt(), split_ids(IDS, 3), settings)
  if finished:
    write(path, **settings)
  other = {"fps": 12.0, "sizes": ((32, 32),)}
  with pytest.raises(
    ConfigError,
    match=r"encode.fps 24.0 -> 12.0; config.encode.sizes \[\[32, 64\]\] -> ",
  ):
    write(path, **other)
  assert len(write(path, **settings)) == len(IDS)


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
