"""Real processes that are killed, told to stop, or run out of disk."""

import contextlib
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pyramid_jax.checkpoint import Checkpoints
from pyramid_jax.data import latents
from tests import tiny
from tests.cli.launched import shapes_clips
from tests.compiling import QUICKLY
from tests.data import random_store

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 30
RANDOM = random.Random()  # another moment every time; a failure tells which


def command(name, *arguments):
  """The installed command, as a list of words."""
  script = pathlib.Path(sys.executable).with_name(f"pyramid-{name}")
  return [str(script), *(f"--{a}" for a in arguments)]


def finish(words):
  """Runs to the end; (exit code, stdout, stderr)."""
  done = subprocess.run(words, capture_output=True, text=True)
  return done.returncode, done.stdout, done.stderr


def succeed(words):
  code, out, err = finish(words)
  assert code == 0, f"{out}\n{err}"


@pytest.fixture(autouse=True)
def heeds_interruptions():
  """Commands do, also where a script started the tests beside itself."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def stop_when(ready, words, how):
  """Sends a signal as soon as `ready()`; the exit code."""
  with subprocess.Popen(
    words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  ) as process:
    try:
      while not ready():
        assert process.poll() is None, f"ended first: {process.stderr.read()}"
        time.sleep(0.002)
      process.send_signal(how)
      process.stderr.read()
    finally:  # a test that ran out of time leaves nothing behind
      process.kill()
  return process.returncode


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  path = tmp_path_factory.mktemp("latents") / "store"
  random_store.write(path, 40, sizes=((8, 8), (8, 12)), frames=(1, 3))
  return path


def train(store, workdir):
  return command(
    "train", f"config={tiny.__file__}", f"workdir={workdir}", f"data={store}",
    f"config.model.text_dim={random_store.TEXT_DIM}",
    f"config.model.pooled_dim={random_store.POOLED_DIM}",
    "config.latents.latent_tokens=64", f"config.train.steps={STEPS}",
    "config.train.save_every=7", "config.train.keep=9",
  )  # fmt: skip


def losses(workdir):
  """By step; a line that is being written does not count."""
  try:
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
  except FileNotFoundError:
    return {}
  whole = text[: text.rfind("\n") + 1].splitlines()
  return {r["step"]: r["loss"] for r in map(json.loads, whole)}


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
  """A run without a fault."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  succeed(train(store, workdir))
  assert list(losses(workdir)) == list(range(1, STEPS + 1))
  return workdir


def saved(workdir):
  return {p.name for p in (pathlib.Path(workdir) / "checkpoints").glob("*")}


def test_a_run_killed_at_random_steps_has_the_losses_of_a_whole_one(
  store, whole, tmp_path
):
  first = RANDOM.randrange(1, STEPS - 8)
  for step in (first, RANDOM.randrange(first + 1, STEPS - 3)):
    print(f"killed after step {step}")
    code = stop_when(
      lambda step=step: len(losses(tmp_path)) >= step,
      train(store, tmp_path),
      signal.SIGKILL,
    )
    assert code == -signal.SIGKILL
  succeed(train(store, tmp_path))
  assert losses(tmp_path) == losses(whole)
  assert saved(tmp_path) == saved(whole)


@pytest.mark.parametrize(
  "number, ended", [(signal.SIGTERM, 0), (signal.SIGINT, 128 + signal.SIGINT)]
)
def test_a_run_that_is_told_to_stop_saves_and_goes_on(
  store, whole, tmp_path, number, ended
):
  step = RANDOM.randrange(1, STEPS - 3)
  print(f"told to stop after step {step}")
  code = stop_when(
    lambda: len(losses(tmp_path)) >= step,
    train(store, tmp_path),
    number,
  )
  assert code == ended
  reached = max(losses(tmp_path))
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest == reached >= step
  checkpoints.close()
  assert all(name.isdigit() for name in saved(tmp_path))
  succeed(train(store, tmp_path))
  assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize("logs", [False, True])
def test_a_run_that_nobody_reads_any_more_saves_when_told_to_stop(
  store, tmp_path, logs
):
  """As on a host that shuts down, where its ssh connection ends first."""
  words = train(store, tmp_path) + [f"--logs={tmp_path}/logs"] * logs
  with subprocess.Popen(
    words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  ) as process:
    try:
      said = ""
      while not said.startswith("step 3 "):
        said = process.stdout.readline()
        assert said, "ended first"
      process.stdout.close()
      process.send_signal(signal.SIGTERM)
      assert process.wait(120) == 0
    finally:  # a test that ran out of time leaves nothing behind
      process.kill()
  reached = max(losses(tmp_path))
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest == reached
  checkpoints.close()
  if logs:
    log = (tmp_path / "logs" / "process_00000.log").read_text()
    assert f"stopped and saved at step {reached}" in log


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  return shapes_clips(tmp_path_factory.mktemp("clips"), 60)


def encode(workdirs, clips, out):
  return command(
    "encode", f"config={tiny.__file__}", f"config.text.path={workdirs.text}",
    f"videos={clips}", f"vae={workdirs.vae}", f"out={out}", "shard=3",
  )  # fmt: skip


@pytest.fixture(scope="module")
def encoded(workdirs, clips, tmp_path_factory):
  """A store that was encoded without a fault."""
  out = tmp_path_factory.mktemp("encoded") / "store"
  succeed(encode(workdirs, clips, out))
  return latents.open_store(out)


def shards(out):
  return sorted(
    p.name for p in out.glob("latents-train.array_record-*-of-?????")
  )


def unfinished(out):
  return [p.name for p in out.iterdir() if "partial" in p.name]


def assert_same_store(out, encoded):
  """Nothing lost, nothing doubled, nothing else."""
  store = latents.open_store(out)
  ids = [store[i]["id"] for i in range(len(store))]
  assert ids == [encoded[i]["id"] for i in range(len(encoded))]
  assert len(set(ids)) == 60
  assert store.fingerprint == encoded.fingerprint
  names = {p.name for p in encoded.path.iterdir()}
  assert {p.name for p in out.iterdir()} == names


def test_an_encoding_killed_at_random_continues_to_the_same_store(
  workdirs, clips, encoded, tmp_path
):
  out, count = tmp_path / "store", 20
  first = RANDOM.randrange(1, count - 8)
  for number in (first, RANDOM.randrange(first + 1, count - 2)):
    print(f"killed after shard {number}")
    code = stop_when(
      lambda number=number: len(shards(out)) >= number,
      encode(workdirs, clips, out),
      signal.SIGKILL,
    )
    assert code == -signal.SIGKILL
    assert not (out / "metadata.json").exists()
  succeed(encode(workdirs, clips, out))
  assert_same_store(out, encoded)


def test_an_encoding_that_is_told_to_stop_leaves_no_half_of_a_file(
  workdirs, clips, encoded, tmp_path
):
  out = tmp_path / "store"
  number = RANDOM.randrange(1, 18)
  print(f"told to stop after shard {number}")
  code = stop_when(
    lambda: len(shards(out)) >= number,
    encode(workdirs, clips, out),
    signal.SIGTERM,
  )
  assert code == 128 + signal.SIGTERM
  assert not unfinished(out)
  succeed(encode(workdirs, clips, out))
  assert_same_store(out, encoded)


@contextlib.contextmanager
def small_disk(folder, size):
  """A disk of `size` bytes for commands; yields (run, its mount point).

  run(words, more) -> (exit code, stdout, stderr, copy of the disk), where
  `more` is done before in shell. Each is in a mount namespace of its own, so
  the disk starts as the copy that the one before left.
  """
  disk, kept = folder / "disk", folder / "kept"
  disk.mkdir()
  kept.mkdir()

  def run(words, size=size):
    script = (
      f"mount -t tmpfs -o size={size} tmpfs {disk} && cp -a {kept}/. {disk}; "
      f"{shlex.join(words)}; code=$?; "
      f"rm -rf {kept} && cp -a {disk} {kept}; exit $code"
    )
    return finish(["unshare", "--map-root-user", "--mount", "sh", "-c", script])

  yield run, disk, kept


def size_of(folder):
  """Bytes on a disk of pages of 4096."""
  files = [p for p in folder.rglob("*")]
  return sum(-(-p.lstat().st_size // 4096) * 4096 for p in files if p.is_file())


def one_error(code, err):
  *before, line = err.splitlines()
  assert code == 2, err
  assert "Traceback" not in err and line.startswith("pyramid-"), err
  assert all("error" not in x.lower() for x in before), err
  return line


def test_a_full_disk_keeps_the_checkpoint_of_before(store, whole, tmp_path):
  each = size_of(whole / "checkpoints") // len(saved(whole))
  with small_disk(tmp_path, int(2.5 * each)) as (run, disk, kept):
    code, _, err = run(train(store, disk))
    line = one_error(code, err)
    assert " is full" in line and "the same command again" in line
    assert saved(kept) >= {"7"} and not saved(kept) >= saved(whole)
    checkpoints = Checkpoints(shutil.copytree(kept, tmp_path / "copy"))
    assert checkpoints.latest in (7, 14)
    checkpoints.meta()
    checkpoints.close()
    code, _, err = run(train(store, disk), size=20 * each)
    assert code == 0, err
    assert losses(kept) == losses(whole)


def test_a_full_disk_ends_two_processes_and_keeps_the_checkpoint_of_before(
  store, whole, tmp_path
):
  each = size_of(whole / "checkpoints") // len(saved(whole))
  path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  with small_disk(tmp_path, int(2.5 * each)) as (run, disk, kept):
    words = [
      "env", f"PATH={path}", f"XLA_FLAGS={QUICKLY}", "bash",
      f"{ROOT}/launch/local.sh", "2", *train(store, disk)[1:],
    ]  # fmt: skip
    code, out, err = run(words)
    assert code == 2
    lines = [x for x in err.splitlines() if x.startswith("pyramid-train: ")]
    assert "Traceback" not in err and " is full" in lines[0]
    assert saved(kept) >= {"7"} and not saved(kept) >= saved(whole)
    checkpoints = Checkpoints(shutil.copytree(kept, tmp_path / "copy"))
    assert checkpoints.latest in (7, 14)
    checkpoints.meta()
    checkpoints.close()
    code, _, err = run(words, size=20 * each)
    assert code == 0, err
  found, expected = losses(kept), losses(whole)
  assert list(found) == list(expected)
  # the processes add in another order than one
  np.testing.assert_allclose(
    list(found.values()), list(expected.values()), rtol=1e-5
  )


def test_a_full_disk_keeps_the_shards_of_before(
  workdirs, clips, encoded, tmp_path
):
  size = size_of(encoded.path) // 2
  with small_disk(tmp_path, size) as (run, disk, kept):
    code, _, err = run(encode(workdirs, clips, disk))
    line = one_error(code, err)
    assert "run the same command again" in line, line
    assert 1 < len(shards(kept)) < len(shards(encoded.path))
    assert not unfinished(kept) and not (kept / "metadata.json").exists()
    code, _, err = run(encode(workdirs, clips, disk), size=4 * size)
    assert code == 0, err
    assert_same_store(kept, encoded)
