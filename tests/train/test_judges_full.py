"""VAE training with LPIPS and a discriminator: when it learns, exact resume."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from pyramid_jax import sharding
from pyramid_jax.config import (
  AdversaryConfig,
  ConfigError,
  LPIPSConfig,
  MeshConfig,
  Phase,
  VAELossConfig,
  VideoDataConfig,
)
from pyramid_jax.convert.models import LPIPS_VGG
from pyramid_jax.convert.names import NameTableError
from pyramid_jax.data import shapes_store
from pyramid_jax.train import loop, vae_task
from tests.train.test_vae import CONFIG, few_statistics, lines, losses

__all__ = ["few_statistics"]
START = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp("judges")
  shapes_store.write(
    folder / "shapes",
    shapes_store.ShapesConfig(
      clips=24, heldout=6, frames=9, height=32, width=32
    ),
  )
  sizes = LPIPSConfig((4, 4, 8, 8, 8), "float32")
  weights = LPIPS_VGG.to_torch(sizes, LPIPS_VGG.make(sizes).init(0))
  weights = {k: np.ascontiguousarray(x) for k, x in weights.items()}
  safetensors.numpy.save_file(weights, folder / "lpips.safetensors")
  adversary = AdversaryConfig(
    "image", width=4, layers=1, dtype="float32", start=START
  )
  return dataclasses.replace(
    CONFIG,
    videos=VideoDataConfig(
      path=str(folder / "shapes"),
      phases=(Phase(steps=4, batch=8, frames=1, height=16, width=16),),
    ),
    vae_loss=VAELossConfig(
      perceptual=1.0,
      lpips=str(folder / "lpips.safetensors"),
      adversary=adversary,
    ),
  )


def train(config, workdir):
  mesh = sharding.make_mesh(config.mesh)
  task = vae_task.make_task(config, mesh, workdir)
  return jax.device_get(loop.run(config, workdir, mesh, task)), task


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  return workdir, *train(config, workdir)


def test_the_discriminator_counts_and_learns_from_its_start_on(whole):
  reports = [x for x in lines(whole[0]) if "loss" in x]
  assert len(reports) == 4
  for n, report in enumerate(reports):
    on = n >= START
    assert (report["adversarial_weight"] > 0) == on
    assert (report["discriminator"] > 0) == on
    assert (report["adversary_grad_norm"] > 0) == on
    assert report["perceptual"] > 0
  _, state, task = whole
  first = task.program.adversary.model.init(CONFIG.seed)
  for before, after in zip(
    first["layers"].values(),
    state.adversary["params"]["layers"].values(),
    strict=True,
  ):
    assert np.abs(after["kernel"] - before["kernel"]).max() > 0
  count = [x for x in jax.tree.leaves(state.adversary["opt"]) if x.ndim == 0]
  assert count and all(n == 4 - START for n in count)  # not a step before


def test_a_killed_run_repeats_its_losses_bit_for_bit(config, whole, tmp_path):
  workdir = shutil.copytree(whole[0], tmp_path / "killed")
  shutil.rmtree(workdir / "checkpoints" / "4")
  state, _ = train(config, workdir)
  assert losses(workdir) == losses(whole[0])
  jax.tree.map(np.testing.assert_array_equal, state, whole[1])


def test_a_batch_in_parts_gives_the_discriminator_the_same_gradient(
  config, whole
):
  """The VAE's own step differs: the ratio of gradients is each part's own."""
  parts = dataclasses.replace(config.train, microbatches=2)
  loss = dataclasses.replace(
    config.vae_loss,
    adversary=dataclasses.replace(config.vae_loss.adversary, start=0),
  )
  reported = []
  for train_config in (config.train, parts):
    changed = dataclasses.replace(config, train=train_config, vae_loss=loss)
    mesh = sharding.make_mesh(changed.mesh)
    task = vae_task.make_task(changed, mesh)
    with jax.set_mesh(mesh):
      state = task.program.create(mesh, 0)
      batch = sharding.place_batch(mesh, next(task.batches(0)), 8)
      _, metrics = task.program.jitted(mesh)(
        state, batch, jax.random.key(0), **task.frozen
      )
    reported.append(jax.device_get(metrics))
  for key in ("nll", "discriminator", "adversary_grad_norm"):
    # float32 sums in another order
    np.testing.assert_allclose(
      reported[0][key], reported[1][key], rtol=1e-4, err_msg=key
    )


@pytest.mark.parametrize("frames", [1, 9])  # split by height, by time
def test_clips_split_over_devices_are_judged_alike(config, frames):
  """LPIPS and discriminator see whole frames, wherever their parts lie."""
  (phase,) = config.videos.phases
  phase = dataclasses.replace(phase, frames=frames)
  changed = dataclasses.replace(
    config,
    videos=dataclasses.replace(config.videos, phases=(phase,)),
    vae_loss=dataclasses.replace(
      config.vae_loss,
      adversary=dataclasses.replace(config.vae_loss.adversary, start=0),
    ),
  )
  found = []
  for shape in (
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=1, fsdp=2, sequence=4),
  ):
    task = vae_task.make_task(dataclasses.replace(changed, mesh=shape),
                              mesh := sharding.make_mesh(shape))  # fmt: skip
    with jax.set_mesh(mesh):
      state = task.program.create(mesh, 0)
      batch = sharding.place_batch(mesh, next(task.batches(0)), 8)
      _, metrics = task.program.jitted(mesh)(
        state, batch, jax.random.key(0), **task.frozen
      )
    found.append(jax.device_get(metrics))
  names = ("nll", "perceptual", "discriminator", "adversarial_weight",
           "grad_norm", "adversary_grad_norm")  # fmt: skip
  for name in names:
    theirs, ours = (metrics[name] for metrics in found)
    assert theirs > 0
    print(f"{name} differs by {abs(ours / theirs - 1):.1e}")
    # float32 sums in another order
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, err_msg=name)


def test_weights_of_lpips_are_asked_for_by_name(config, tmp_path):
  mesh = sharding.make_mesh(config.mesh)
  with_file = lambda path: dataclasses.replace(
    config, vae_loss=dataclasses.replace(config.vae_loss, lpips=str(path))
  )
  with pytest.raises(ConfigError, match=r"perceptual is 1, .*lpips '' is no f"):
    vae_task.make_task(with_file(""), mesh)
  other = tmp_path / "other.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, other)
  with pytest.raises(NameTableError, match="other.*not the weights of LPIPS"):
    vae_task.make_task(with_file(other), mesh)


def test_the_plan_sees_the_step_with_all_its_networks(whole):
  program, config = whole[2].program, CONFIG
  mesh = sharding.make_mesh(config.mesh)
  video = jax.ShapeDtypeStruct((8, 1, 16, 16, 3), np.float32)
  batch = {"video": video, "index": jax.ShapeDtypeStruct((8,), np.int32)}
  args, frozen = program.arguments(mesh, batch)
  with jax.set_mesh(mesh):
    state, metrics = jax.eval_shape(program.step, *args, **frozen)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(state) == shapes(program.abstract())
  assert {"perceptual", "discriminator"} <= metrics.keys()
