"""What is said of files before they are encoded is what encoding will do."""

import csv
import json

import PIL.Image
import pytest

from pyramid_jax.config import EncodeConfig, FlowConfig
from pyramid_jax.data import encode, inspection, sources
from pyramid_jax.data.latent_writer import LatentWriter, split_ids
from tests.data import random_store, videos
from tests.data.test_encode import to_features, to_latents

CONFIG = EncodeConfig(sizes=((32, 32), (32, 64)), max_frames=17, batch=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Clips, one of them twice and one of them again in another coding."""
  path = tmp_path_factory.mktemp("clips")
  for i, name in enumerate(("first", "other")):
    frames = videos.camera_like(25, 32, 64)[:15, :, :: 1 - 2 * i]
    videos.write_video(path / f"{name}.mp4", frames, crf="10")
    videos.write_video(path / f"z {name}.webm", frames, crf="10")
  (path / "twice.mp4").write_bytes((path / "first.mp4").read_bytes())
  (path / "twice.txt").write_text(f"{'long ' * 2000}\nanother")
  (path / "other.txt").write_text("\n")
  PIL.Image.new("RGB", (40, 40), "red").save(path / "red.png")
  (path / "broken.mp4").write_bytes(b"no video")
  (path / "folder.mp4").mkdir()
  return path


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
  """(folder of the results, the summary, lines of the table by id)."""
  out = tmp_path_factory.mktemp("look") / "out"
  clips = sources.open_clips(folder, CONFIG)
  text = inspection.inspect_clips(clips, out, shown=4)
  with (out / "files.tsv").open() as file:
    lines = list(csv.DictReader(file, delimiter="\t"))
  return out, text, {line["id"]: line for line in lines}


def test_what_is_left_out_is_what_encoding_leaves_out(found, folder, tmp_path):
  clips = sources.open_clips(folder, CONFIG)
  writer = LatentWriter(
    tmp_path, random_store.METADATA, random_store.NULL, split_ids(clips.ids, 9)
  )
  encode.encode_clips(clips, writer, to_latents, to_features)
  encode.finish(clips, writer, 24, FlowConfig(stages=2), 2)
  skipped = (tmp_path / "skipped.jsonl").read_text().splitlines()
  reasons = {x["id"]: x["reason"] for x in map(json.loads, skipped)}
  assert reasons.keys() == {"broken.mp4", "folder.mp4"}
  assert reasons == {
    id: line["reason"]
    for id, line in found[2].items()
    if line["use"] == "left out"
  }


def test_the_table_says_what_files_are_and_what_becomes_of_them(found):
  lines = found[2]
  assert len(lines) == 8
  first = lines["first.mp4"]
  assert (first["use"], first["codec"]) == ("trimmed", "h264")
  assert [first[k] for k in ("height", "width", "frames", "stored")] == [
    "32", "64", "9", "32x64",
  ]  # fmt: skip
  assert float(first["fps"]) == 24
  assert abs(float(first["seconds"]) - 15 / 24) < 0.05
  red = lines["red.png"]
  assert (red["use"], red["codec"], red["frames"]) == ("yes", "png", "1")
  assert lines["twice.mp4"]["characters"] == "9999"
  assert lines["twice.mp4"]["captions"] == "2"
  assert lines["other.mp4"]["caption"] == ""


def test_equal_frames_are_found_and_what_looks_like_them(found):
  lines = found[2]
  assert lines["twice.mp4"]["same_as"] == "first.mp4"
  same = {k for k, line in lines.items() if line["same_as"]}
  assert same == {"twice.mp4"}
  like = {k: x["like"] for k, x in lines.items() if x["like"]}
  assert like == {
    "twice.mp4": "first.mp4",
    "z first.webm": "first.mp4",
    "z other.webm": "other.mp4",
  }


def test_the_summary_counts_and_the_sheet_shows(found):
  out, text, _ = found
  assert text.startswith(
    "8 inputs: 5 videos and 1 images can be used, 2 are left out"
  )
  assert "captions: 7 different, 1 empty, the longest has 9999" in text
  assert "1 have the frames of another, 2 more look like one" in text
  sheet = PIL.Image.open(out / "contact_sheet.png")
  assert sheet.format == "PNG" and min(sheet.size) > 200
  assert sorted(p.name for p in out.iterdir()) == [
    "contact_sheet.png", "files.tsv",
  ]  # fmt: skip
