"""The commands of configs/shapes.py, on a few small clips and narrow models."""

import json
import pathlib

import numpy as np
import pytest

from tests import commands

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "shapes.py"
# clips of a quarter of the side, a VAE that halves once: latents of the sizes
# that the config has
SIZE = 32
VAE = (
  "config.vae.channels=(4,4)", "config.vae.groups=2",
  "config.vae.down_space=(True,False)",
  "config.vae.down_time=(True,False)",
)  # fmt: skip
# a step in each of two phases or periods
SHORT = (
  "config.train.steps=2", "config.train.log_every=1",
  "config.optimizer.warmup=0",
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
