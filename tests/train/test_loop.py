"""A run that is interrupted goes on as if it had not been."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal

import jax
import numpy as np
import pytest

from pyramid_jax import checkpoint, sharding
from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import Period
from pyramid_jax.train import loop, starts, stopping
from pyramid_jax.train.dit_task import make_task
from tests.data import random_store
from tests.train import small_run

STEPS = 8


class Killed(Exception):
  """Stands for the end of a process between two steps."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  path = tmp_path_factory.mktemp("latents") / "store"
  random_store.write(path, 40)
  return path


def train(config, workdir, before=None, devices=None, max_starts=0, **changes):
  """Runs the loop; `before(n, rows)` is called before each step.

  `changes` are of the task.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  task = make_task(config, mesh)

  def batches(start):
    for n, rows in enumerate(task.batches(start), start):
      yield (before(n, rows) if before else None) or rows

  changed = dataclasses.replace(task, batches=batches, **changes)
  return loop.run(config, workdir, mesh, changed, max_starts=max_starts)


def losses(workdir):
  return {r["step"]: r["loss"] for r in lines(workdir)}


def lines(workdir):
  text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
  """Losses, final state and workdir of a run without interruption."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  state = train(small_run.config(store, STEPS), workdir)
  return losses(workdir), jax.device_get(state), workdir


def test_a_whole_run_reports_every_step_and_keeps_its_config(whole, store):
  reported = whole[0]
  assert list(reported) == list(range(1, STEPS + 1))
  assert all(np.isfinite(list(reported.values())))


def test_a_killed_run_repeats_its_losses_bit_for_bit(whole, store, tmp_path):
  config = small_run.config(store, STEPS)

  def kill(n, rows):
    if n == 5:
      raise Killed

  with pytest.raises(Killed):
    train(config, tmp_path, kill)
  state = train(config, tmp_path)
  assert losses(tmp_path) == whole[0]
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), whole[1])


def test_starts_are_counted_from_the_newest_checkpoint(tmp_path, caplog):
  file = tmp_path / starts.FILE
  for step in (None, None, 3, 6, 6):
    starts.count(tmp_path, step, 2)
  refused = f"last 2 starts of {tmp_path} brought no checkpoint after step 6"
  for _ in range(2):
    with pytest.raises(starts.NoProgressError, match=refused) as error:
      starts.count(tmp_path, 6, 2)
  assert f"delete {file}" in str(error.value)
  starts.count(tmp_path, 6, 0)  # any number
  file.unlink()
  starts.count(tmp_path, 6, 1)
  file.write_text("")  # of a host that lost power
  starts.count(tmp_path, 6, 1)
  assert f"{file} cannot be read" in caplog.text


def test_a_run_counts_its_starts_until_its_end(whole, store, tmp_path):
  file = whole[2] / starts.FILE
  once = json.loads(file.read_text())
  assert once == {"checkpoint": None, "starts": 1}
  train(small_run.config(store, STEPS), whole[2], max_starts=1)
  assert json.loads(file.read_text()) == once
  shutil.copy(file, tmp_path)
  with pytest.raises(starts.NoProgressError, match="no checkpoint yet"):
    train(small_run.config(store, STEPS), tmp_path, max_starts=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_call_continues(
  whole, store, tmp_path, number
):
  config = small_run.config(store, STEPS)
  before = signal.getsignal(number)

  def stop(n, rows):
    if n == 4:
      os.kill(os.getpid(), number)

  with pytest.raises(loop.TrainingStopped, match="saved at step 5") as stopped:
    train(config, tmp_path, stop)
  assert stopped.value.interrupted == (number == signal.SIGINT)
  assert signal.getsignal(number) is before
  assert checkpoint.Checkpoints(tmp_path).latest == 5
  train(config, tmp_path)
  assert losses(tmp_path) == whole[0]


def test_a_second_interruption_is_as_without_us(capfd):
  before = signal.getsignal(signal.SIGINT)
  stop = stopping.StopSignal(0)
  os.kill(os.getpid(), signal.SIGINT)
  assert stop.requested(1) and stop.interrupted
  with pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGINT)
  stop.restore()
  assert signal.getsignal(signal.SIGINT) is before
  assert "Ctrl-C again: without saving" in capfd.readouterr().err


def test_an_ignored_interruption_stays_ignored():
  """As of a job in the background of a shell."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    stop = stopping.StopSignal(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert not stop.requested(1)
    stop.restore()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_run_starts_from_the_weights_that_are_named(whole, store, tmp_path):
  config = small_run.config(store, 1, train__init=str(whole[2]))
  mesh = sharding.make_mesh(config.mesh)
  given = loop._given(config, mesh, make_task(config, mesh))
  jax.tree.map(np.testing.assert_array_equal, given, whole[1].ema)
  train(config, tmp_path / "next")
  assert losses(tmp_path / "next")[1] != whole[0][1]
  model = dataclasses.replace(config.model, layers=3)
  other = dataclasses.replace(config, model=model)
  with pytest.raises(CheckpointError, match="config.model.layers: 2 -> 3"):
    train(other, tmp_path / "other")
  model = dataclasses.replace(config.model, causal=False)  # no weight's shape
  other = dataclasses.replace(config, model=model)
  given = loop._given(other, mesh, make_task(other, mesh))
  jax.tree.map(np.testing.assert_array_equal, given, whole[1].ema)


def test_a_finished_run_is_left_alone(store, tmp_path):
  config = small_run.config(store, 1)
  train(config, tmp_path)
  before = (tmp_path / "metrics.jsonl").read_bytes()
  train(config, tmp_path)
  assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
  "change, message",
  [
    ({"model__layers": 3}, r"config.model.layers: 2 -> 3"),
    ({"latents__window": 17}, r"config.latents.window: 16 -> 17"),
  ],
)
def test_another_model_or_data_is_refused_by_name(
  store, whole, change, message
):
  with pytest.raises(CheckpointError, match=message):
    train(small_run.config(store, STEPS + 1, **change), whole[2])


def test_other_rows_are_gone_on_with_if_that_is_asked_for(
  store, whole, tmp_path, caplog
):
  run = shutil.copytree(whole[2], tmp_path / "run")
  other = {"latents__window": 17}
  asked = small_run.config(store, STEPS + 1, **other, train__new_data=True)
  train(asked, run)
  assert "config.latents.window: 16 -> 17" in caplog.text
  # from then on they are the run's own
  train(small_run.config(store, STEPS + 2, **other), run)
  assert sorted(losses(run)) == list(range(1, STEPS + 3))


def test_latents_of_another_vae_are_not_gone_on_with(
  store, whole, tmp_path, caplog
):
  other = shutil.copytree(store, tmp_path / "other")
  metadata = json.loads((other / "metadata.json").read_text())
  metadata["vae_fingerprint"] = "vae-2"
  (other / "metadata.json").write_text(json.dumps(metadata))
  config = small_run.config(other, STEPS + 1, train__new_data=True)
  with pytest.raises(CheckpointError, match="vae_fingerprint: vae-1 -> vae-2"):
    train(config, whole[2])
  started = small_run.config(other, 1, train__init=str(whole[2]))
  train(started, tmp_path / "new")
  assert "other encoders (its -> now): vae_fingerprint: vae-1" in caplog.text


def test_a_period_that_is_not_reached_is_told(store, caplog):
  periods = (Period(steps=STEPS), Period())
  for steps, told in ((STEPS + 1, False), (STEPS, True)):
    config = small_run.config(store, steps, latents__periods=periods)
    make_task(config, sharding.make_mesh(config.mesh))
    assert ("periods[1] begins at step" in caplog.text) == told


def poison(step):
  def before(n, rows):
    if n == step:
      return {**rows, "clean": np.full_like(rows["clean"], np.inf)}
    return None

  return before


def test_weights_to_start_from_that_are_not_there_are_told(store, tmp_path):
  config = small_run.config(store, 1, train__init="runs/before")
  with pytest.raises(
    CheckpointError, match=r"--config\.train\.init.*: runs/before has no check"
  ):
    train(config, tmp_path)


def test_a_non_finite_loss_stops_the_run_and_names_the_rows(store, tmp_path):
  config = small_run.config(store, STEPS)
  with pytest.raises(
    loop.NonFiniteError, match=r"step 5: .* rows 32 to 39; 1 such"
  ):
    train(config, tmp_path, poison(4))
  assert checkpoint.Checkpoints(tmp_path).latest == 3
  *before, spike, report = lines(tmp_path)
  assert [x["step"] for x in before] == [1, 2, 3, 4]
  assert (spike["step"], spike["finite"], spike["rows"]) == (5, False, [32, 39])
  assert (report["step"], report["skipped"]) == (5, 1)


def test_allowed_non_finite_steps_are_skipped_and_counted(store, tmp_path):
  config = small_run.config(store, STEPS, train__max_nonfinite=1)
  state = train(config, tmp_path, poison(4))
  assert (int(state.skipped), int(state.step)) == (1, STEPS)
  for leaf in jax.tree.leaves(state.params):
    assert np.isfinite(np.asarray(leaf)).all()


def test_a_run_that_cannot_be_finished_loses_one_step_at_most(
  store, whole, tmp_path
):
  config = small_run.config(store, STEPS)

  def fail(state):
    raise Killed

  with pytest.raises(Killed):
    train(config, tmp_path, finish=fail)
  assert checkpoint.Checkpoints(tmp_path).latest == STEPS - 1
  train(config, tmp_path, finish=lambda state: ({"psnr": 1.0}, {"more": 2}))
  *reports, score = lines(tmp_path)
  assert {r["step"]: r["loss"] for r in reports} == whole[0]
  assert score == {"step": STEPS, "psnr": 1.0}
  checkpoints, _, meta = checkpoint.open_trained(tmp_path, "dit")
  checkpoints.close()
  assert meta["more"] == 2
  # what has nothing to finish saves as often as it is told
  saved = {p.name for p in (whole[2] / "checkpoints").iterdir()}
  assert saved == {"3", "6", "8"}


def test_a_run_that_does_not_name_its_rows_is_told(store, whole, tmp_path):
  workdir = shutil.copytree(whole[2], tmp_path / "before")
  (meta,) = (workdir / "checkpoints" / "8" / "meta").glob("metadata")
  values = json.loads(meta.read_text())
  del values["plan"]
  meta.write_text(json.dumps(values))
  with pytest.raises(CheckpointError, match="that of an earlier version"):
    train(small_run.config(store, STEPS + 1), workdir)


def test_errors_of_one_process_are_not_taken_for_a_lost_one(monkeypatch):
  def error_after(text):
    with pytest.raises(Exception) as raised, loop._peers():
      raise jax.errors.JaxRuntimeError(text)
    return type(raised.value)

  own = jax.errors.JaxRuntimeError
  memory = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
  lost = (
    "INTERNAL: Error dispatching computation: Gloo all-reduce failed: "
    "pair.cc:547] Connection closed by peer",
    "UNAVAILABLE: the coordination service is gone",
  )
  assert error_after(lost[0]) is own  # there is no other
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert [error_after(text) for text in lost] == [loop.PeerLostError] * 2
  assert error_after(memory) is loop.OutOfMemoryError
  for text in ("INVALID_ARGUMENT: shapes", "UNIMPLEMENTED: float8"):
    assert error_after(text) is own


def test_another_optimizer_is_refused_by_name(store, whole):
  config = small_run.config(store, STEPS + 1, optimizer__method="muon")
  with pytest.raises(
    CheckpointError, match="config.optimizer.method: 'adamw' -> 'muon'"
  ):
    train(config, whole[2])


def test_a_full_disk_is_one_clear_error_and_loses_nothing(
  store, tmp_path, monkeypatch
):
  config = small_run.config(store, STEPS)

  def fill(n, rows):
    if n == 5:
      manager = checkpoint.ocp.CheckpointManager
      full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      monkeypatch.setattr(manager, "save", lambda *a, **k: raise_(full))

  with pytest.raises(CheckpointError, match="disk of .* is full"):
    train(config, tmp_path, fill)
  monkeypatch.undo()
  assert checkpoint.Checkpoints(tmp_path).latest == 3


def raise_(error):
  raise error
