"""Images and clips in one run: two programs, an exact resume, all is reported.

With a discriminator of clips, which sits the images out.
"""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import (
  AdversaryConfig,
  Phase,
  TrainConfig,
  VAELossConfig,
  VideoDataConfig,
)
from pyramid_jax.data import shapes_store
from pyramid_jax.data.phases import Schedule
from pyramid_jax.train import loop, vae_task
from pyramid_jax.train.program import Program
from tests.train.test_vae import CONFIG, few_statistics, lines, losses

__all__ = ["few_statistics"]
PHASE = Phase(6, 8, 9, 16, 16, image_ratio=0.5, images=16)
SEED = 1


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mixed") / "shapes"
  shapes_store.write(
    folder,
    shapes_store.ShapesConfig(
      clips=24, heldout=6, frames=9, height=32, width=32
    ),
  )
  return dataclasses.replace(
    CONFIG,
    seed=SEED,
    videos=VideoDataConfig(path=str(folder), phases=(PHASE,)),
    vae_loss=VAELossConfig(
      adversary=AdversaryConfig(
        "clip", width=4, layers=1, dtype="float32", start=1, warmup=2
      )
    ),
    train=TrainConfig(steps=6, log_every=1, save_every=2, eval_clips=3),
  )


def train(config, workdir):
  """The final state, and the step's program."""
  programs, jitted = [], Program.jitted

  def keep(self, mesh):
    programs.append(jitted(self, mesh))
    return programs[-1]

  mesh = sharding.make_mesh(config.mesh)
  task = vae_task.make_task(config, mesh)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Program, "jitted", keep)
    state = loop.run(config, workdir, mesh, task)
  (program,) = programs
  return jax.device_get(state), program


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  return workdir, *train(config, workdir)


def images():
  schedule = Schedule((PHASE,), SEED)
  return [schedule.has_images(n) for n in range(6)]


def test_two_programs_are_compiled_and_every_step_is_reported(whole):
  workdir, _, program = whole
  assert program._cache_size() == 2
  reports = [x for x in lines(workdir) if "loss" in x]
  assert [x["step"] for x in reports] == [1, 2, 3, 4, 5, 6]
  assert 0 < sum(images()) < 6
  for n, (of_images, report) in enumerate(zip(images(), reports, strict=True)):
    assert ("adversarial" in report) != of_images
    if not of_images:
      assert report["adversarial_factor"] == [0, 0.5, 1, 1, 1, 1][n]
    assert np.isfinite(report["loss"]) and report["grad_norm"] > 0
  (scores,) = (x for x in lines(workdir) if "psnr" in x)
  assert scores.keys() == {
    "step", "psnr", "ssim", "flicker", "flicker_original"
  }  # fmt: skip
  assert 0 < scores["ssim"] < 1


def test_the_discriminator_learns_of_clips_alone(whole):
  count = [x for x in jax.tree.leaves(whole[1].adversary["opt"]) if x.ndim == 0]
  learned = sum(not of_images for of_images in images()[1:])
  assert count and all(n == learned for n in count)


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_repeats_its_losses_bit_for_bit(
  config, whole, tmp_path, step
):
  workdir = shutil.copytree(whole[0], tmp_path / "killed")
  for folder in (workdir / "checkpoints").iterdir():
    if folder.name.isdigit() and int(folder.name) > step:
      shutil.rmtree(folder)
  state, _ = train(config, workdir)
  assert losses(workdir) == losses(whole[0])
  jax.tree.map(np.testing.assert_array_equal, state, whole[1])
