"""Two processes encode one store, are killed and go on in other numbers."""

import json
import os
import pathlib
import random
import signal
import time

import pytest

from pyramid_jax.cli.processes import TOLD
from pyramid_jax.data import latents
from tests import tiny
from tests.cli.launched import Launched, shapes_clips

RANDOM = random.Random()  # other moments every time; a failure tells which
CLIPS, PER_SHARD = 40, 2
MINUTE = 60  # in which survivors have to end


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  return shapes_clips(tmp_path_factory.mktemp("clips"), CLIPS)


class Run(Launched):
  """`launch/local.sh` with pyramid-encode, so many processes of 2 devices."""

  def __init__(self, count, workdirs, clips, out):
    self.out = pathlib.Path(out)
    super().__init__(
      count, "pyramid-encode", 2,
      f"--config={tiny.__file__}", f"--config.text.path={workdirs.text}",
      f"--videos={clips}", f"--vae={workdirs.vae}", f"--out={out}",
      f"--shard={PER_SHARD}",
    )  # fmt: skip

  def kill(self, process, after):
    """Kills one when so many shards are there, at a random moment."""
    while len(shards(self.out)) < after:
      assert self.launcher.poll() is None, self.launcher.stdout.read()
      time.sleep(0.01)
    time.sleep(RANDOM.uniform(0, 0.3))
    os.kill(self.pid(process), signal.SIGKILL)
    since = time.monotonic()
    code, out = self.end(MINUTE)
    print(f"the others ended after {time.monotonic() - since:.1f} s")
    assert code != 0, out


def shards(out):
  return sorted(
    p.name for p in out.glob("latents-train.array_record-*-of-?????")
  )


@pytest.fixture(scope="module")
def one(workdirs, clips, tmp_path_factory):
  """The store of one process."""
  out = tmp_path_factory.mktemp("stores") / "one"
  Run(1, workdirs, clips, out).succeed()
  return latents.open_store(out)


def assert_same_store(out, one):
  store = latents.open_store(out)
  assert store.fingerprint == one.fingerprint
  assert [x["id"] for x in store] == [x["id"] for x in one]
  names = {p.name for p in one.path.iterdir()}
  assert {p.name for p in out.iterdir()} == names
  counts = [
    {k: v for k, v in json.loads((p / "summary.json").read_text()).items()
     if k not in ("seconds", "clips_per_second", "device_idle")}
    for p in (out, one.path)
  ]  # fmt: skip
  assert counts[0] == counts[1] and counts[0]["stored"] == CLIPS


def test_two_processes_write_the_store_of_one(workdirs, clips, one, tmp_path):
  out = Run(2, workdirs, clips, tmp_path / "two").succeed()
  assert_same_store(tmp_path / "two", one)
  assert out.count(f"{CLIPS} of {CLIPS} inputs stored") == 1


def test_a_store_whose_writers_are_killed_goes_on_with_any_number(
  workdirs, clips, one, tmp_path
):
  """Of 2 processes one is killed; then the one of 1; then 2 to the end."""
  out, count = tmp_path / "store", CLIPS // PER_SHARD
  first = RANDOM.randrange(1, count // 2)
  process = RANDOM.randrange(2)
  print(f"process {process} is killed after {first} shards")
  Run(2, workdirs, clips, out).kill(process, first)
  assert not (out / "metadata.json").exists()
  kept = {name: (out / name).stat().st_mtime_ns for name in shards(out)}
  assert first <= len(kept) < count
  second = RANDOM.randrange(len(kept), count - 1)
  print(f"the only process is killed after {second} shards")
  Run(1, workdirs, clips, out).kill(0, second)
  Run(2, workdirs, clips, out).succeed()
  assert_same_store(out, one)
  for name, written in kept.items():  # no finished shard is written again
    assert (out / name).stat().st_mtime_ns == written


def test_sigterm_ends_all_without_half_a_file(workdirs, clips, one, tmp_path):
  out = tmp_path / "store"
  run = Run(2, workdirs, clips, out)
  while len(shards(out)) < 2:
    assert run.launcher.poll() is None, run.launcher.stdout.read()
    time.sleep(0.01)
  run.launcher.send_signal(signal.SIGTERM)
  code, text = run.end(MINUTE)
  assert code == 128 + signal.SIGTERM, text
  assert not list(out.glob("*.partial")), text
  Run(1, workdirs, clips, out).succeed()
  assert_same_store(out, one)


def test_sigterm_to_one_alone_ends_the_other(workdirs, clips, one, tmp_path):
  out, process = tmp_path / "store", RANDOM.randrange(2)
  print(f"process {process} is told to end")
  run = Run(2, workdirs, clips, out)
  while len(shards(out)) < 2:
    assert run.launcher.poll() is None, run.launcher.stdout.read()
    time.sleep(0.01)
  os.kill(run.pid(process), signal.SIGTERM)
  code, text = run.end(TOLD + MINUTE)
  assert code != 0, text
  Run(1, workdirs, clips, out).succeed()
  assert_same_store(out, one)
