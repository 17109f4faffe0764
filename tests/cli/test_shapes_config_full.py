"""The commands of configs/shapes.py, on a few small clips and narrow models."""

import dataclasses
import json
import pathlib
import runpy

import numpy as np
import pytest

from pyramid_jax.config import Config, from_dict
from pyramid_jax.data import pipeline
from pyramid_jax.data.curriculum import Curriculum
from pyramid_jax.data.latents import NullPrompt
from pyramid_jax.data.rows import TokenSpec
from tests import commands
from tests.data import random_store

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "shapes.py"
# clips of a quarter of the side, a VAE that halves once: latents of the sizes
# that the config has
SIZE = 32
VAE = (
  "config.vae.channels=(4,4)", "config.vae.groups=2",
  "config.vae.down_space=(True,False)",
  "config.vae.down_time=(True,False)",
)  # fmt: skip
# a step in each of two phases or periods, a process that loads
SHORT = (
  "config.train.steps=2", "config.train.log_every=1",
  "config.optimizer.warmup=0", "config.videos.workers=1",
  "config.latents.workers=1",
)  # fmt: skip


def succeed(*arguments):
  result = commands.run(*arguments)
  assert result.code == 0, f"{arguments}\n{result.err}"


def losses(workdir):
  reports = map(
    json.loads, (workdir / "metrics.jsonl").read_text().splitlines()
  )
  return {r["step"]: r["loss"] for r in reports if "loss" in r}


def draw(out, text, *more):
  succeed(
    "shapes", f"out={out}", f"text={text}", "clips=16", "heldout=2",
    f"size={SIZE}", *more,
  )  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """Folders of clips, of images, and of the text encoders by kind."""
  folder = tmp_path_factory.mktemp("shapes")
  videos, images = folder / "data", folder / "images"
  text = {kind: folder / f"text_{kind}" for kind in ("sd3", "flux")}
  for kind, path in text.items():
    draw(videos, path, "frames=9", f"text_kind={kind}")
  draw(images, text["sd3"], "frames=1", "seed=1")
  return videos, images, text


@pytest.fixture(scope="module")
def vae(clips, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "vae"
  shape = {"steps": 1, "batch": 8, "height": SIZE, "width": SIZE}
  phases = [
    f"config.videos.phases[{i}].{name}={value}"
    for i in (0, 1)
    for name, value in shape.items()
  ]
  succeed(
    "train", f"config={CONFIG}:vae", f"workdir={workdir}", f"data={clips[0]}",
    "config.train.eval_clips=2", "config.videos.phases[1].frames=9", *phases,
    *VAE, *SHORT,
  )  # fmt: skip
  return workdir


def test_its_vae_learns_from_images_and_then_from_clips(vae):
  found = losses(vae)
  assert list(found) == [1, 2] and np.isfinite(list(found.values())).all()


@pytest.mark.parametrize(
  "which, kind, layers",
  [
    ("mmdit", "sd3", {"layers": 2}),
    ("miniflux", "flux", {"layers": 1, "single_layers": 2}),
  ],
)
def test_each_backbone_learns_from_images_and_then_from_clips(
  which, kind, layers, clips, vae, tmp_path
):
  videos, images, text = clips
  config = (
    f"config={CONFIG}:{which}", f"config.text.path={text[kind]}", *VAE,
  )  # fmt: skip
  stores = []
  for folder, frames in ((videos, 9), (images, 1)):
    stores.append(tmp_path / f"latents_{folder.name}")
    succeed(
      "encode", *config, f"videos={folder}", f"vae={vae}",
      f"out={stores[-1]}", f"config.encode.sizes=(({SIZE},{SIZE}),)",
      f"config.encode.max_frames={frames}",
      f"config.encode.min_frames={frames}",
    )  # fmt: skip
  succeed(
    "train", *config, f"workdir={tmp_path / which}",
    f"data={stores[0]},{stores[1]}", "config.latents.periods[0].steps=1",
    "config.latents.rows=8", "config.latents.window=64",
    "config.latents.latent_tokens=416", "config.latents.text_tokens=96",
    "config.latents.segments=12", "config.model.heads=2",
    *(f"config.model.{name}={n}" for name, n in layers.items()), *SHORT,
  )  # fmt: skip
  found = losses(tmp_path / which)
  assert list(found) == [1, 2] and np.isfinite(list(found.values())).all()
  if which == "mmdit":  # of the other only the model's programs differ
    evaluate(tmp_path / which, videos, tmp_path / "evaluation")


def evaluate(workdir, videos, out):
  """Generates two clips of 9 frames, a step a stage, and reads them."""
  succeed(
    "evaluate", f"workdir={workdir}", f"out={out}", "n=2", "batch=2",
    f"height={SIZE}", f"width={SIZE}", "frames=9", "steps=1,1,1",
    "video_steps=1,1,1", "workers=1", f"shapes={videos}",
  )  # fmt: skip
  scored = json.loads((out / "results.json").read_text())
  assert [clip["frames"] for clip in scored["clips"]] == [9, 9]
  assert scored["summary"]["all correct"]["n"] == 2


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
  """Random latents and prompts of the config's sizes: clips, images."""
  folder = tmp_path_factory.mktemp("stores")
  with pytest.MonkeyPatch.context() as patch:
    for name in ("TEXT_DIM", "POOLED_DIM"):
      patch.setattr(random_store, name, 64)
    patch.setattr(random_store, "CHANNELS", 8)
    sizes = dict(latent_channels=8, text_dim=64, pooled_dim=64)
    metadata = dataclasses.replace(random_store.METADATA, **sizes)
    patch.setattr(random_store, "METADATA", metadata)
    null = np.ones((2, 64), np.float32), np.ones(64, np.float32)
    patch.setattr(random_store, "NULL", NullPrompt(*null))
    write = lambda name, count, **kinds: random_store.write(
      folder / name, count, sizes=((16, 16),), **kinds
    )
    return (
      write("clips", 48, frames=(13, 13), text=(11, 13)),
      write("images", 128, frames=(1, 1), text=(9, 10)),
    )


@pytest.mark.parametrize("which", ["mmdit", "miniflux"])
def test_rows_of_its_real_lengths_are_full_in_both_periods(stores, which):
  made = runpy.run_path(str(CONFIG))["get_config"](which)
  config = from_dict(Config, made)
  data = dataclasses.replace(config.latents, workers=0)
  spec = TokenSpec.of(config.flow, config.model)
  plan = Curriculum(stores, data, config.flow, config.model.patch, config.seed)
  assert len(plan.starts) == 2
  for start, text in zip(plan.starts, (0.9, 0.35), strict=True):
    batches = pipeline.batches(stores, plan, spec, start)
    rows = next(batches)
    batches.close()
    assert rows["segment"].shape == (data.rows, data.latent_tokens)
    # a clip has as many units as there are latents in time; pieces of text
    # are as long as captions, which are not padded
    assert (rows["segment"] > 0).mean() > 0.9
    assert (rows["text_segment"] > 0).mean() > text
