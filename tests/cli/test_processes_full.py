"""Two processes train one run, started as a user starts them."""

import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest

from pyramid_jax.checkpoint import Checkpoints
from tests import tiny
from tests.cli.launched import ROOT, Launched, shapes_clips
from tests.data import random_store

STEPS = 12
ROWS = 8  # of a step, clips for a VAE
RANDOM = random.Random()  # another process every time; a failure tells which
MINUTE = 60  # in which survivors have to end
TRANSFORMER = (
  f"--config={tiny.__file__}",
  f"--config.model.text_dim={random_store.TEXT_DIM}",
  f"--config.model.pooled_dim={random_store.POOLED_DIM}",
  "--config.latents.latent_tokens=64", f"--config.train.steps={STEPS}",
  "--config.train.save_every=6", "--config.train.keep=9",
)  # fmt: skip
VAE_STEPS = 4
VAE = (
  f"--config={tiny.__file__}:vae", "--config.videos.phases[0].frames=9",
  f"--config.videos.phases[0].steps={VAE_STEPS}",
  f"--config.train.steps={VAE_STEPS}", "--config.train.save_every=2",
  "--config.train.keep=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  path = tmp_path_factory.mktemp("latents") / "store"
  random_store.write(path, 40, sizes=((8, 8), (8, 12)), frames=(1, 3))
  return path


class Run(Launched):
  """`launch/local.sh` with so many processes of 8 devices in all."""

  def __init__(self, count, data, workdir, *more, flags=TRANSFORMER):
    self.workdir = pathlib.Path(workdir)
    super().__init__(
      count, f"{ROOT}/tests/cli/recorded_train.py", 8 // count,
      *flags, f"--workdir={workdir}", f"--data={data}",
      f"--logs={workdir}/logs", *more, TAKEN=f"{workdir}/taken",
    )  # fmt: skip

  def after(self, step):
    """Waits for the report of a step."""
    while max(losses(self.workdir), default=0) < step:
      assert self.launcher.poll() is None, self.launcher.stdout.read()
      time.sleep(0.01)
    return self


def losses(workdir):
  """By step; a line that is being written does not count."""
  text = ""
  with contextlib.suppress(FileNotFoundError):
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
  whole = text[: text.rfind("\n") + 1].splitlines()
  return {r["step"]: r["loss"] for r in map(json.loads, whole) if "loss" in r}


def taken(workdir):
  """Of every step the rows and a digest of each, over processes and starts.

  A row that was read more than once was always the same, and each process took
  its steps in order.
  """
  steps = collections.defaultdict(dict)
  for file in (pathlib.Path(workdir) / "taken").iterdir():
    order = []
    for line in file.read_text().splitlines():
      rows = {int(n): digest for n, digest in json.loads(line).items()}
      order.append(min(rows) // ROWS)
      for row, digest in rows.items():
        assert steps[order[-1]].setdefault(row, digest) == digest
    assert order == list(range(order[0], order[0] + len(order)))
  return steps


def newest(workdir):
  checkpoints = Checkpoints(workdir)
  step = checkpoints.latest
  checkpoints.close()
  return step


def assert_same_run(workdir, reference, steps=STEPS):
  found, expected = losses(workdir), losses(reference)
  assert list(found) == list(expected) == list(range(1, steps + 1))
  rows = taken(workdir)
  assert rows == taken(reference)  # bit for bit
  for n in range(steps):
    assert sorted(rows[n]) == list(range(n * ROWS, (n + 1) * ROWS))
  found, expected = (np.array(list(x.values())) for x in (found, expected))
  print(f"losses differ by {np.abs(found / expected - 1).max():.1e}")
  # equal bit for bit or, where processes add in another order, within 2e-7
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def two(store, tmp_path_factory):
  """A run of two processes without a fault, and what it printed."""
  workdir = tmp_path_factory.mktemp("runs") / "two"
  return workdir, Run(2, store, workdir).succeed()


@pytest.fixture(scope="module")
def one(store, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "one"
  Run(1, store, workdir).succeed()
  return workdir


def test_two_processes_have_the_losses_of_one(two, one):
  assert_same_run(two[0], one)


def test_only_the_first_process_reports_and_each_keeps_its_log(two):
  workdir, out = two
  reports = re.findall(r"^step (\d+)  ", out, re.MULTILINE)
  assert reports == [str(n) for n in range(1, STEPS + 1)]
  assert len(re.findall(r"^first step after \d+\.\d s$", out, re.M)) == 1
  for process in (0, 1):
    name = (
      rf"^\d\d:\d\d:\d\d process {process} of 2: on \S+ with 4 of 8 devices"
    )
    assert len(re.findall(name, out, re.MULTILINE)) == 1
    log = (workdir / "logs" / f"process_0000{process}.log").read_text()
    assert re.search(name, log, re.MULTILINE)
    assert (f"step {STEPS}  " in log) == (process == 0)


def test_a_restart_finds_its_programs_beside_the_workdir(
  store, tmp_path, monkeypatch
):
  """Of the first process: on CPU alone, JAX's keys differ by process."""
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  run = Run(2, store, tmp_path, "--stopped_code=143").after(2)
  os.kill(run.pid(1), signal.SIGTERM)
  code, out = run.end(MINUTE)
  assert code == 143, out
  out = Run(2, store, tmp_path).succeed()
  found = re.search(r"^0 programs compiled, (\d+) found in (\S+)$", out, re.M)
  assert found and int(found[1]) > 0, out
  assert found[2] == str(tmp_path / "compiled")


def test_a_run_that_is_stopped_and_killed_goes_on_with_any_number(
  store, two, tmp_path
):
  """2 processes, told to stop; 2, one dies; 1, told to stop; 2 to the end."""
  process = RANDOM.randrange(2)
  print(f"process {process} gets the signals")
  run = Run(2, store, tmp_path).after(2)
  os.kill(run.pid(process), signal.SIGTERM)
  code, out = run.end(MINUTE)
  assert code == 0, out
  reached = max(losses(tmp_path))
  assert newest(tmp_path) == reached < 7
  assert f"stopped and saved at step {reached}." in out

  run = Run(2, store, tmp_path).after(7)
  os.kill(run.pid(process), signal.SIGKILL)
  since = time.monotonic()
  code, out = run.end(MINUTE)
  print(f"the other ended after {time.monotonic() - since:.1f} s")
  assert code != 0
  assert re.search("another (process does not answer|task died)", out), out
  for step, loss in losses(tmp_path).items():
    assert loss == losses(two[0])[step]  # bit for bit so far
  assert newest(tmp_path) == 6

  run = Run(1, store, tmp_path).after(8)
  os.kill(run.pid(0), signal.SIGTERM)
  code, out = run.end()
  assert code == 0, out
  Run(2, store, tmp_path).succeed()
  assert_same_run(tmp_path, two[0])


def test_processes_that_start_in_vain_are_refused_together(store, tmp_path):
  run = Run(2, store, tmp_path, "--max_starts=1").after(1)
  os.kill(run.pid(RANDOM.randrange(2)), signal.SIGKILL)
  assert run.end(MINUTE)[0] != 0
  code, out = Run(2, store, tmp_path, "--max_starts=1").end(MINUTE)
  assert code == 2, out
  line = f"error: the last 1 starts of {tmp_path} brought no checkpoint yet."
  assert out.count(line) == 2, out
  Run(2, store, tmp_path, "--max_starts=3").succeed()


def read(path):
  """What a file says so far."""
  return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("said", ["of 8 devices", "continuing from step"])
def test_a_run_that_goes_on_is_stopped_before_its_first_step(
  store, two, tmp_path, said
):
  """From step 6, where other steps are counted than in a fresh run."""
  workdir = shutil.copytree(two[0], tmp_path / "run")
  shutil.rmtree(workdir / "logs")
  for folder in (workdir / "checkpoints").iterdir():
    if int(folder.name) > 6:
      shutil.rmtree(folder)
  run = Run(2, store, workdir, "--config.train.steps=2000")
  # of the process that is told; the other hears of it
  while said not in read(workdir / "logs" / "process_00001.log"):
    assert run.launcher.poll() is None, run.launcher.stdout.read()
    time.sleep(0.01)
  os.kill(run.pid(1), signal.SIGTERM)
  code, out = run.end(2 * MINUTE)
  assert code == 0, out
  (step,) = re.findall(r"stopped and saved at step (\d+)\.", out)
  assert newest(workdir) == int(step) in (7, 8, 9)


def test_when_one_is_silent_the_other_ends(store, tmp_path):
  run = Run(2, store, tmp_path, "--config.train.steps=2000").after(7)
  silent, other = run.pid(1), run.pid(0)
  os.kill(silent, signal.SIGSTOP)
  since = time.monotonic()
  try:
    while pathlib.Path(f"/proc/{other}").exists():
      assert time.monotonic() - since < MINUTE
      time.sleep(0.1)
  finally:
    os.kill(silent, signal.SIGKILL)
  print(f"ended after {time.monotonic() - since:.1f} s")
  code, out = run.end()
  assert code != 0 and "stopped sending heartbeats" in out
  assert newest(tmp_path) >= 6


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  return shapes_clips(tmp_path_factory.mktemp("clips"), 24, heldout=4)


@pytest.fixture(scope="module")
def one_vae(clips, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "one_vae"
  Run(1, clips, workdir, flags=VAE).succeed()
  return workdir


@pytest.fixture(scope="module")
def two_vae(clips, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "two_vae"
  Run(2, clips, workdir, flags=VAE).succeed()
  return workdir


def assert_same_vae(workdir, reference):
  """Same clips; losses, scores and statistics within rounding."""
  assert_same_run(workdir, reference, VAE_STEPS)

  def measured(workdir):
    *_, last = (workdir / "metrics.jsonl").read_text().splitlines()
    checkpoints = Checkpoints(workdir)
    _, meta = checkpoints.meta()
    checkpoints.close()
    return {**json.loads(last), **meta["statistics"]}

  found, expected = measured(workdir), measured(reference)
  assert found.keys() == expected.keys() >= {"psnr", "ssim", "flicker", "scale"}
  print({k: found[k] - expected[k] for k in found})
  for name, value in found.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_two_processes_train_the_vae_of_one(two_vae, one_vae):
  assert_same_vae(two_vae, one_vae)


def test_a_vae_goes_on_with_another_number_of_processes_and_mesh(
  clips, two_vae, one_vae, tmp_path
):
  """From its second step, on one process whose devices split the height."""
  workdir = shutil.copytree(two_vae, tmp_path / "run")
  for folder in (workdir / "checkpoints").iterdir():
    if int(folder.name) > 2:
      shutil.rmtree(folder)
  mesh = ("--config.mesh.data=2", "--config.mesh.sequence=4")
  out = Run(1, clips, workdir, *mesh, flags=VAE).succeed()
  assert "continuing from step 2" in out
  assert (
    list(losses(workdir).values())[:2] == list(losses(two_vae).values())[:2]
  )
  assert_same_vae(workdir, one_vae)
