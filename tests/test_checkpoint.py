"""Checkpoints are whole, the last few, and never taken for another run's."""

import collections
import dataclasses
import errno
import os
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import checkpoint, sharding
from pyramid_jax.checkpoint import CheckpointError, Checkpoints
from pyramid_jax.config import (
  Config,
  DiTConfig,
  MeshConfig,
  OptimizerConfig,
  TrainConfig,
)
from pyramid_jax.train import resume

CONFIG = Config(seed=3, model=DiTConfig(layers=2))
ITEMS = {
  "params": {"a": {"kernel": np.arange(64.0, dtype=np.float32).reshape(8, 8)}},
  "progress": {"step": np.int32(7)},
}


def save(workdir, *steps, config=CONFIG, keep=3, **meta):
  checkpoints = Checkpoints(workdir, keep)
  for step in steps:
    checkpoints.save(step, ITEMS, config, **meta)
  checkpoints.close()


def test_what_was_saved_comes_back_on_another_mesh(tmp_path):
  save(tmp_path, 5, statistics={"shift": 0.5}, plan="abc")
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest == 5
  assert checkpoints.meta() == (
    CONFIG,
    {"statistics": {"shift": 0.5}, "plan": "abc"},
  )
  mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))
  places = {
    "params": {"a": {"kernel": sharding.sharding(mesh, "embed", "mlp")}},
    "progress": {"step": sharding.sharding(mesh)},
  }
  shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, ITEMS))
  found = checkpoints.restore(checkpoint.placed(shapes, places))
  jax.tree.map(np.testing.assert_array_equal, found, ITEMS)
  kernel = found["params"]["a"]["kernel"]
  assert kernel.sharding == places["params"]["a"]["kernel"]
  checkpoints.close()


def test_the_last_few_are_kept_and_a_step_is_saved_once(tmp_path):
  save(tmp_path, 1, 2, 3, 3, keep=2)
  save(tmp_path, 3)  # is there already: left alone
  names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert names == {"2", "3"}


def test_a_checkpoint_that_a_crash_left_half_written_does_not_count(tmp_path):
  save(tmp_path, 1)
  half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (half / "params").mkdir(parents=True)
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest == 1
  checkpoints.close()


@pytest.mark.parametrize(
  "lost, told",
  [
    ("params", "params"),
    ("params/commit_success.txt", "params/commit_success.txt"),
    ("meta", "meta"),
  ],
)
def test_a_step_that_was_copied_in_part_is_told(tmp_path, lost, told):
  save(tmp_path, 5, 8)
  step = tmp_path / "checkpoints" / "8"
  (step / lost).rename(tmp_path / "lost")
  target = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, ITEMS))
  checkpoints = Checkpoints(tmp_path)
  message = f"{step} is not whole: it lacks {told}. Delete that folder; then "
  with pytest.raises(CheckpointError, match=re.escape(message)):
    checkpoints.meta()
    checkpoints.restore(target)
  checkpoints.close()
  shutil.rmtree(step)
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest == 5 and checkpoints.meta()[0] == CONFIG
  checkpoints.close()


def test_parts_without_marks_are_whole_as_earlier_versions_wrote_them(tmp_path):
  save(tmp_path, 5)
  for mark in (tmp_path / "checkpoints").rglob("commit_success.txt"):
    mark.unlink()
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.meta()[0] == CONFIG
  checkpoints.close()


def test_a_missing_checkpoint_names_the_folder_and_makes_none(tmp_path):
  for folder in (tmp_path / "none", tmp_path):
    with pytest.raises(
      CheckpointError, match=rf"^{folder} has no checkpoint .* pyramid-train"
    ):
      checkpoint.open_trained(folder, "dit")
  assert not list(tmp_path.iterdir())


def test_a_folder_of_checkpoints_without_one_is_a_missing_checkpoint(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(CheckpointError, match="has no checkpoint"):
    checkpoint.open_trained(tmp_path, "dit")


def test_a_checkpoint_of_the_other_kind_is_refused(tmp_path):
  save(tmp_path, 1)
  with pytest.raises(
    CheckpointError, match="holds a checkpoint of kind 'dit'; .* kind 'vae'"
  ):
    checkpoint.open_trained(tmp_path, "vae")
  opened, config, _ = checkpoint.open_trained(tmp_path, "dit")
  assert config == CONFIG
  opened.close()


def test_every_setting_that_differs_is_named(tmp_path):
  model = dataclasses.replace(CONFIG.model, heads=8)
  other = dataclasses.replace(CONFIG, seed=4, model=model)
  with pytest.raises(CheckpointError) as error:
    resume.require_same(CONFIG, other, tmp_path)
  for part in (
    f"{tmp_path} was trained with other settings (its -> now): ",
    "config.seed: 3 -> 4; ",
    "config.model.heads: 24 -> 8. Use the same ones, or another --workdir.",
  ):
    assert part in str(error.value)


def test_length_optimizer_mesh_and_loaders_may_change(tmp_path):
  latents = dataclasses.replace(CONFIG.latents, workers=4)
  other = dataclasses.replace(
    CONFIG,
    mesh=MeshConfig(tensor=2),
    optimizer=OptimizerConfig(learning_rate=1e-5),
    train=TrainConfig(steps=7, microbatches=2),
    latents=latents,
  )
  resume.require_same(CONFIG, other, tmp_path)


def test_a_vae_run_does_not_depend_on_settings_of_the_transformer(tmp_path):
  vae = dataclasses.replace(CONFIG, kind="vae")
  model = dataclasses.replace(CONFIG.model, heads=8)
  other = dataclasses.replace(vae, model=model)
  resume.require_same(vae, other, tmp_path)
  channels = dataclasses.replace(vae.vae, channels=(8, 8, 8, 8))
  with pytest.raises(CheckpointError, match=r"vae.channels: \(128, .* -> \(8"):
    resume.require_same(vae, dataclasses.replace(vae, vae=channels), tmp_path)
  with pytest.raises(CheckpointError, match="config.kind: 'vae' -> 'dit'"):
    resume.require_same(vae, CONFIG, tmp_path)


def caused_by(error, cause):
  error.__cause__ = cause
  return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FACES = {
  "the error of the system": FULL,
  "a quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
  "tensorstore's": ValueError(
    "RESOURCE_EXHAUSTED: Error writing local file: No space left on device"
  ),
  "as a cause": caused_by(RuntimeError("save failed"), FULL),
}


@pytest.mark.parametrize("error", FACES.values(), ids=FACES)
def test_a_full_disk_is_told_as_such_whatever_its_face(
  tmp_path, monkeypatch, error
):
  save(tmp_path, 1)

  def full(*args, **kwargs):
    raise error

  checkpoints = Checkpoints(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
    with pytest.raises(CheckpointError, match="disk of .* is full; .*Free"):
      checkpoints.save(2, ITEMS, CONFIG)
  assert checkpoints.latest == 1
  checkpoints.close()


def test_a_disk_without_room_is_refused_before_anything_is_written(
  tmp_path, monkeypatch
):
  save(tmp_path, 1)
  usage = collections.namedtuple("usage", "total used free")
  size = 64 * 4 + 4  # of ITEMS
  checkpoints = Checkpoints(tmp_path)
  for free in (size - 1, size):
    monkeypatch.setattr(
      shutil, "disk_usage", lambda _, free=free: usage(2**30, 0, free)
    )
    if free < size:
      with pytest.raises(
        CheckpointError, match=r"full: .* needs 0\.0 MiB, 0\.0 MiB are free"
      ):
        checkpoints.save(2, ITEMS, CONFIG)
      assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1"}
  checkpoints.save(2, ITEMS, CONFIG)
  checkpoints.close()
  assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_what_a_save_before_still_drops_makes_room(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path, keep=1)
  usage = collections.namedtuple("usage", "total used free")
  size, asked = 64 * 4 + 4, []  # of ITEMS

  def look(folder):
    there = [p for p in checkpoints.folder.iterdir() if p.is_dir()]
    asked.append(len(there))
    return usage(2**30, 0, (disk - len(there)) * size)

  monkeypatch.setattr(shutil, "disk_usage", look)
  disk = 2  # one that is kept, and one beside
  for step in (1, 2, 3, 4):
    checkpoints.save(step, ITEMS, CONFIG)
  disk = 1
  with pytest.raises(CheckpointError, match="is full"):
    checkpoints.save(5, ITEMS, CONFIG)
  checkpoints.close()
  assert checkpoint.latest_step(tmp_path) == 4
  assert 2 in asked  # there was no room until the save before was done


def test_a_save_that_hangs_on_a_full_disk_is_not_waited_for(
  tmp_path, monkeypatch
):
  checkpoints, hangs = Checkpoints(tmp_path), threading.Event()
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 0, 0))
  monkeypatch.setattr(checkpoint, "PATIENCE", 0.01)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.manager, "wait_until_finished", hangs.wait)
    with pytest.raises(CheckpointError, match="is full"):
      checkpoints.save(1, ITEMS, CONFIG)
    hangs.set()
    # others change what is free all the while
    free = iter(range(10**6))
    monkeypatch.setattr(
      shutil, "disk_usage", lambda _: usage(2**30, 0, next(free) % 7)
    )
    hangs.clear()
    with pytest.raises(CheckpointError, match="is full"):
      checkpoints.save(1, ITEMS, CONFIG)
    hangs.set()
  checkpoints.close()


def test_other_errors_keep_their_own_face(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)

  def broken(*args, **kwargs):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.ocp.CheckpointManager, "save", broken)
    with pytest.raises(OSError, match="Input/output error"):
      checkpoints.save(2, ITEMS, CONFIG)
  checkpoints.close()


def test_weights_are_narrowed_as_they_are_read_as_jax_does(tmp_path):
  x = np.random.default_rng(0).normal(size=(64, 33)).astype(np.float32)
  checkpoints = checkpoint.Checkpoints(tmp_path, writing=True)
  checkpoints.save(1, {"params": {"x": jnp.asarray(x)}}, Config())
  checkpoints.wait()
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=place)
  found = checkpoints.restore({"params": {"x": target}})["params"]["x"]
  checkpoints.close()
  np.testing.assert_array_equal(found, jnp.asarray(x).astype(jnp.bfloat16))
