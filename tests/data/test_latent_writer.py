"""Writing latents: a kill loses nothing, and other inputs are refused."""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from pyramid_jax.config import ConfigError, UserError
from pyramid_jax.data import latents
from pyramid_jax.data.latent_writer import LatentWriter, split_ids
from tests.data.named_store import (
  IDS,
  METADATA,
  assert_same_example,
  example,
  null_prompt,
  write,
)

ROOT = pathlib.Path(__file__).parents[2]


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
