"""What is told of stored datasets is what they hold."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from pyramid_jax.config import Config, LatentDataConfig
from pyramid_jax.data import info, latents
from tests import commands
from tests.data import random_store

CONFIG = Config(
  latents=LatentDataConfig(
    rows=4, latent_tokens=256, text_tokens=40, segments=16, window=32
  )
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  path = tmp_path_factory.mktemp("stores")
  stores = {
    "videos": random_store.write(path / "videos", 60, frames=(2, 4)),
    "images": random_store.write(path / "images", 20, 900, frames=(1, 1)),
  }
  return path, stores


def field(text, name):
  return re.search(rf"^  {name} +(.*)$", text, re.MULTILINE)[1]


def test_counts_sizes_and_encoders_are_those_of_the_store(folders):
  path, stores = folders
  text, good = info.report([path / "videos"], None)
  assert good
  lengths = stores["videos"].lengths
  frames = 1 + 8 * (lengths.frames - 1)
  assert field(text, "clips").startswith("60 in 4 shards, ")
  assert f"{frames.sum():,} frames in 60 clips" in field(text, "video")
  for n in np.unique(frames):
    assert re.search(rf"^ .* {n}: {(frames == n).sum()}$", text, re.MULTILINE)
  wide = (lengths.width == 24).sum()
  assert re.search(rf"64 x 192: {wide}$", text, re.MULTILINE)
  assert field(text, "vae").startswith("vae-1 ")
  assert field(text, "fingerprint") == stores["videos"].fingerprint[:16]
  assert field(text, "format") == f"version {latents.VERSION}"
  assert field(text, "text tokens").startswith(
    f"{lengths.text.min()} to {lengths.text.max()}, mean "
  )
  for stage in range(3):
    assert re.search(rf"^  stage {stage} tokens  \d", text, re.MULTILINE)


def test_shares_of_a_histogram_sum_to_the_whole(folders):
  text, _ = info.report([folders[0] / "images"], None)
  after = text.split("text tokens")[1]
  shares = [float(x) for x in re.findall(r"([\d.]+)%", after)]
  # each is rounded to a tenth
  assert abs(sum(shares) - 100) <= 0.05 * len(shares)


def test_skipped_inputs_are_told_by_reason(folders, tmp_path):
  store = shutil.copytree(folders[0] / "images", tmp_path / "store")
  lines = [{"id": str(i), "reason": "too short: 3 frames"} for i in range(5)]
  lines.append({"id": "x", "reason": "no video"})
  (store / "skipped.jsonl").write_text("\n".join(map(json.dumps, lines)))
  text, _ = info.report([store], None)
  assert re.search(r"left out +too short: 5\n +no video: 1$", text, re.M)


def test_rows_of_a_run_are_those_of_its_plan(folders):
  paths = [str(folders[0] / name) for name in ("videos", "images")]
  text, good = info.report(paths, CONFIG)
  assert good and "they can be; same encoders" in text
  fill = float(field(text, "fill").split("%")[0]) / 100
  segments = float(field(text, "step").split()[0])
  a_row = float(field(text, "step").split()[-3])
  assert 0.5 < fill <= 1 and abs(segments - 4 * a_row) < 0.1
  rows = int(field(text, "epoch").split()[0])
  # 60 videos and as many images, both rounded as they are printed
  assert abs(rows * a_row - 120) < a_row
  assert re.match(
    r"config.latents.text_tokens=\d+ and", field(text, "suggested")
  )


def test_a_run_that_does_not_fit_is_told_after_what_is_there(folders):
  small = dataclasses.replace(CONFIG.latents, latent_tokens=64)
  config = dataclasses.replace(CONFIG, latents=small)
  text, good = info.report([str(folders[0] / "videos")], config)
  assert not good and field(text, "clips").startswith("60 in")
  assert "latent tokens" in field(text, "not possible")


def test_stores_of_other_encoders_name_the_field(folders, tmp_path):
  other = shutil.copytree(folders[0] / "images", tmp_path / "other")
  file = other / "metadata.json"
  file.write_text(file.read_text().replace('"vae-1"', '"vae-2"'))
  text, good = info.report([folders[0] / "videos", other], None)
  assert not good
  assert "vae_fingerprint: 'vae-1' and 'vae-2'" in field(
    text, "not to be mixed"
  )


def test_an_unfinished_store_says_how_far_it_is(folders, tmp_path):
  store = shutil.copytree(folders[0] / "videos", tmp_path / "store")
  (store / "metadata.json").unlink()
  next(store.glob("latents-train.array_record-00003-*")).unlink()
  (store / "writing.json").write_text("{}")
  (store / "shard-00000.json").write_text(json.dumps({"sizes": [[1, 2, 3, 4]]}))
  text, good = info.report([store], None)
  assert not good and "incomplete" in field(text, "not usable")
  assert field(text, "unfinished") == "3 of 4 shards are there, with 1 clips"


def test_the_command_prints_it_and_its_exit_code_says_whether_all_is_well(
  folders,
):
  info_of = lambda path: commands.run(
    "data", pathlib.Path("info"), pathlib.Path(path), files=True
  )
  result = info_of(folders[0] / "videos")
  assert result.code == 0 and "60 in 4 shards" in result.out
  result = info_of("nowhere")
  assert result.code == 1 and "no stored latents" in result.out
  assert commands.run("data").error.startswith("say what and of which folders")
