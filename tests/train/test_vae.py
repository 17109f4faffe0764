"""VAE training: any mesh and parts, phases, an exact resume, what is stored."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

from pyramid_jax import checkpoint, sharding
from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import (
  Config,
  ConfigError,
  MeshConfig,
  OptimizerConfig,
  Phase,
  TrainConfig,
  VAEConfig,
  VideoDataConfig,
)
from pyramid_jax.data import shapes_store
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import pure
from pyramid_jax.train import loop, vae_task

PHASES = (
  Phase(steps=2, batch=8, frames=1, height=16, width=16),
  Phase(steps=2, batch=16, frames=9, height=8, width=8),
)
CONFIG = Config(
  kind="vae",
  mesh=MeshConfig(data=2, fsdp=2, tensor=2),
  vae=VAEConfig(  # one level: half of the operations to compile
    channels=(4,), encoder_blocks=1, decoder_blocks=1, latent_channels=4,
    groups=2, down_space=(False,), down_time=(False,), dtype="float32",
  ),
  optimizer=OptimizerConfig(learning_rate=1e-2, warmup=1, ema=0.5),
  train=TrainConfig(
    steps=4, log_every=1, save_every=2, eval_clips=5, pictures=3
  ),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_statistics():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vae_task, "STATISTICS_BATCHES", 2)
    yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shapes") / "shapes"
  settings = shapes_store.ShapesConfig(
    clips=24, heldout=6, frames=9, height=32, width=32
  )
  shapes_store.write(folder, settings)
  videos = VideoDataConfig(path=str(folder), phases=PHASES)
  return dataclasses.replace(CONFIG, videos=videos)


def test_a_height_that_the_mesh_does_not_split_is_refused(config):
  config = dataclasses.replace(config, mesh=MeshConfig(fsdp=1, sequence=8))
  vae = dataclasses.replace(
    config.vae,
    channels=(4, 4),
    down_space=(True, False),
    down_time=(False, False),
  )
  config = dataclasses.replace(config, vae=vae)
  message = "height 8 is not a multiple of 2 x config.mesh.sequence 8 = 16"
  with pytest.raises(ConfigError, match=message):
    vae_task.make_task(config, sharding.make_mesh(config.mesh))
  mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2))
  with pytest.raises(ConfigError, match="tensor 2 beside config.mesh.seq"):
    vae_task.make_task(config, mesh)


def train(config, workdir):
  """Runs the loop; returns the state and the shapes of the batches."""
  mesh = sharding.make_mesh(config.mesh)
  task = vae_task.make_task(config, mesh)
  shapes = []

  def batches(start):
    for batch in task.batches(start):
      shapes.append(batch["video"].shape)
      yield batch

  state = loop.run(
    config, workdir, mesh, dataclasses.replace(task, batches=batches)
  )
  return jax.device_get(state), shapes


def lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def losses(workdir):
  return {x["step"]: x["loss"] for x in lines(workdir) if "loss" in x}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
  """A run without interruption: its workdir, final state and batches."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  return workdir, *train(config, workdir)


def test_phases_switch_to_clips_of_another_shape(whole):
  workdir, _, shapes = whole
  first, second = (8, 1, 16, 16, 3), (16, 9, 8, 8, 3)
  assert shapes[:4] == [first, first, second, second]
  assert list(losses(workdir)) == [1, 2, 3, 4]
  assert np.isfinite(list(losses(workdir).values())).all()


def test_a_mesh_gives_the_steps_of_one_device_and_of_a_batch_in_parts(
  config, whole
):
  parts = dataclasses.replace(config.train, microbatches=2)
  config = dataclasses.replace(config, mesh=MeshConfig(), train=parts)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  task = vae_task.make_task(config, mesh)
  step, batches = jax.jit(task.program.step), task.batches(0)
  with jax.set_mesh(mesh):
    state = task.program.create(mesh, config.seed)
    for reported in lines(whole[0])[:2]:
      batch = sharding.place_batch(mesh, next(batches), 8)
      state, metrics = step(state, batch, jax.random.key(config.seed))
      assert metrics.keys() == {
        "loss", "nll", "pixel", "kl", "grad_norm",
      }  # fmt: skip
      for key, value in metrics.items():
        # float32 sums in another order, and an optimizer step after them
        np.testing.assert_allclose(value, reported[key], rtol=2e-4, err_msg=key)


def test_a_killed_run_repeats_its_losses_bit_for_bit(config, whole, tmp_path):
  """What a run leaves that was killed after its first checkpoint."""
  workdir = shutil.copytree(whole[0], tmp_path / "killed")
  for step in ("3", "4"):
    shutil.rmtree(workdir / "checkpoints" / step)
  state, shapes = train(config, workdir)
  assert shapes[0] == (16, 9, 8, 8, 3)  # from the checkpoint of step 2
  assert losses(workdir) == losses(whole[0])
  jax.tree.map(np.testing.assert_array_equal, state, whole[1])


def test_the_statistics_of_the_latents_and_the_psnr_are_kept(whole, tmp_path):
  checkpoints, config, meta = checkpoint.open_trained(whole[0], "vae")
  checkpoints.close()
  assert config.vae == CONFIG.vae
  found = meta["statistics"]
  assert found.keys() == {"shift", "scale", "video_shift", "video_scale"}
  assert np.isfinite(list(found.values())).all()
  assert found["scale"] > 0 and found["video_scale"] > 0
  assert found["shift"] != found["video_shift"]
  assert [x["step"] for x in lines(whole[0]) if "psnr" in x] == [4]


def test_scores_are_those_of_the_held_out_clips(config, whole):
  """Computed again from the saved average, clip by clip."""
  _, state, _ = whole
  model = pure(lambda rngs: vae_lib.VAE(config.vae, rngs=rngs))
  clips = vae_task.clips_lib.TrainingClips(config.videos, config.seed)

  @jax.jit
  def reconstruct(params, video):
    moments = model.apply(params, video, method="encode")
    mean = vae_lib.posterior(moments).mean
    return model.apply(params, mean, method="decode")

  scores, flicker, original = [], [], []
  for clip in clips.heldout(config.train.eval_clips):
    decoded = np.asarray(reconstruct(state.ema, clip[None])[0]).clip(-1, 1)
    scores.append(10 * np.log10(4 / np.mean(np.square(decoded - clip))))
    flicker.append(np.abs(decoded[1:] - decoded[:-1]).mean())
    original.append(np.abs(clip[1:] - clip[:-1]).mean())
  assert len(scores) == 5
  (reported,) = (x for x in lines(whole[0]) if "psnr" in x)
  assert reported["ssim"] is None  # frames are smaller than its window
  for key, values in (
    ("psnr", scores), ("flicker", flicker), ("flicker_original", original)
  ):  # fmt: skip
    np.testing.assert_allclose(reported[key], np.mean(values), rtol=1e-4)


def test_the_statistics_are_of_the_average_weights_and_of_images_too(
  config, whole
):
  """Computed again, batch by batch, of a last phase that mixes images."""
  _, state, _ = whole
  last = dataclasses.replace(PHASES[1], image_ratio=0.5, images=8)
  videos = dataclasses.replace(config.videos, phases=(PHASES[0], last))
  config = dataclasses.replace(
    config,
    videos=videos,
    vae=dataclasses.replace(config.vae, sample=False),
    mesh=MeshConfig(),
  )
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  model = pure(lambda rngs: vae_lib.VAE(config.vae, rngs=rngs))
  clips = vae_task.clips_lib.TrainingClips(videos, config.seed)
  found = vae_task.latent_statistics(config, mesh, model, clips, state.ema)
  encode = jax.jit(lambda x: model.apply(state.ema, x, method="encode"))
  first, later = [], []
  for images in (False, True):
    for n in clips.schedule.steps_like(images, 4, 2):
      (batch,) = clips.batches([n], range)
      assert batch["video"].shape[:2] == ((8, 1) if images else (16, 9))
      mean = np.asarray(encode(batch["video"]))[..., :4]
      first.append(mean[:, :1].ravel())
      later.append(mean[:, 1:].ravel())
  first, later = map(np.concatenate, (first, later))
  expected = {
    "shift": first.mean(), "scale": 1 / first.std(),
    "video_shift": later.mean(), "video_scale": 1 / later.std(),
  }  # fmt: skip
  for key, value in expected.items():
    # sums of float32 in another order; the shift is near 0
    np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)


def test_pictures_of_the_average_are_written_by_one_program(config, whole):
  names = sorted(p.name for p in (whole[0] / "pictures").iterdir())
  assert names == ["step_000003.png", "step_000004.png"]
  mesh = sharding.make_mesh(config.mesh)
  program = vae_task.make_task(config, mesh).program
  clips = vae_task.clips_lib.TrainingClips(config.videos, config.seed)
  held = vae_task.HeldOut(mesh, program.model, clips)
  with jax.set_mesh(mesh):
    ema = jax.device_put(whole[1].ema, program.shardings(mesh).params)
    picture = held.picture(ema)
    np.testing.assert_array_equal(
      picture, PIL.Image.open(whole[0] / "pictures" / names[1])
    )
    held.picture(ema)
    held.report(ema, 5)
  assert held.program._cache_size() == 1


def test_statistics_give_mean_0_and_variance_1():
  rng = np.random.default_rng(0)
  first = [rng.normal(3, 2, 500), rng.normal(5, 2, 500)]
  later = [rng.normal(-1, 0.5, 4000)]
  found = vae_task.statistics(first, later)
  for values, shift, scale in (
    (np.concatenate(first), found["shift"], found["scale"]),
    (later[0], found["video_shift"], found["video_scale"]),
  ):
    normalised = (values - shift) * scale
    np.testing.assert_allclose(normalised.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(normalised.std(), 1, rtol=1e-12)


def test_a_vae_of_single_frames_has_one_pair_of_statistics_for_all():
  found = vae_task.statistics([np.arange(5.0)], [np.zeros(0)])
  assert (found["video_shift"], found["video_scale"]) == (
    found["shift"], found["scale"],
  )  # fmt: skip


def with_phase(config, **changes):
  phase = dataclasses.replace(PHASES[0], **changes)
  videos = dataclasses.replace(config.videos, phases=(phase, PHASES[1]))
  return dataclasses.replace(config, videos=videos)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"steps": 3}, "phases .* have 5 steps in all, config.train.steps is 4; m"),
    ({"rate": 0.0}, r"rate 0 must be above 0; .*learning_rate 0\.01\."),
    ({"frames": 5}, r"frames 5 are not 8 n \+ 1; nearest: 1"),
    ({"frames": 17}, r"needs 17 frames, but the longest of 24 .* has 9"),
  ],
)
def test_phases_that_cannot_be_are_told_before_anything_runs(
  config, change, message
):
  mesh = sharding.make_mesh(config.mesh)
  with pytest.raises(ConfigError, match=message):
    vae_task.make_task(with_phase(config, **change), mesh)


def test_files_left_out_are_listed_in_the_workdir(
  config, tmp_path, monkeypatch
):
  mesh, listed = sharding.make_mesh(config.mesh), tmp_path / "skipped.jsonl"
  read = vae_task.clips_lib.open_sources
  for skipped in ([], [("a.mp4", "too short")], []):
    monkeypatch.setattr(
      vae_task.clips_lib,
      "open_sources",
      lambda videos, skipped=skipped: (*read(videos)[:2], skipped),
    )
    before = listed.exists()
    vae_task.make_task(config, mesh, tmp_path)
    if not skipped:  # no list, or an empty one in the place of an old one
      assert not before or listed.read_text() == ""
      assert listed.exists() == before
    else:
      assert json.loads(listed.read_text()) == {
        "path": "a.mp4",
        "reason": "too short",
      }


def test_microbatches_that_do_not_divide_a_phase_are_told(config):
  train = dataclasses.replace(config.train, microbatches=3)
  with pytest.raises(ConfigError, match="batch 8 is not a multiple of .* 3"):
    vae_task.make_task(
      dataclasses.replace(config, train=train), sharding.make_mesh(config.mesh)
    )


def test_microbatches_that_the_mesh_does_not_divide_are_told(config):
  train = dataclasses.replace(config.train, microbatches=4)
  with pytest.raises(
    ConfigError, match=r"phases\[0\].batch 8 is not a multiple of .* 4 = 16: "
  ):
    vae_task.make_task(
      dataclasses.replace(config, train=train), sharding.make_mesh(config.mesh)
    )


def test_other_clips_in_the_same_workdir_are_told(
  config, whole, tmp_path, monkeypatch, caplog
):
  read = vae_task.clips_lib.open_sources
  fewer = lambda videos: (read(videos)[1], *read(videos)[1:])
  monkeypatch.setattr(vae_task.clips_lib, "open_sources", fewer)
  with pytest.raises(
    CheckpointError, match=r"clips to train on: 24 \(\w+\) -> 6 \(\w+\)\. Use"
  ):
    train(config, whole[0])
  allowed = dataclasses.replace(config.train, new_data=True)
  train(dataclasses.replace(config, train=allowed), whole[0])
  assert "clips to train on: 24 " in caplog.text
  # a run of before, which does not say what it was trained on
  workdir = shutil.copytree(whole[0], tmp_path / "before")
  (meta,) = (workdir / "checkpoints" / "4" / "meta").glob("metadata")
  values = json.loads(meta.read_text())
  del values["plan"]
  meta.write_text(json.dumps(values))
  train(config, workdir)


def test_other_phases_in_the_same_workdir_are_told(config, whole):
  with pytest.raises(CheckpointError, match=r"videos\.phases\[0\]|phases"):
    train(
      dataclasses.replace(
        with_phase(config, steps=3),
        train=dataclasses.replace(config.train, steps=5),
      ),
      whole[0],
    )
