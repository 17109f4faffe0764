"""From files to a store: nothing lost, nothing doubled, nothing in silence."""

import collections
import dataclasses
import json
import logging

import numpy as np
import numpy.testing as npt
import PIL.Image
import pytest

from pyramid_jax.config import ConfigError, EncodeConfig, FlowConfig
from pyramid_jax.data import encode, latents, shapes_store, sources
from pyramid_jax.data.latent_writer import LatentWriter, split_ids
from pyramid_jax.data.summary import Summary
from tests.data import random_store, videos

CONFIG = EncodeConfig(
  sizes=((32, 32), (32, 64)), max_frames=17, min_frames=9, batch=2
)


def to_latents(clips, ids):
  """What a clip shows, in the shape of its latents."""
  assert len({clip.shape[1:] for clip in clips}) == 1
  assert len(clips) == len(ids)
  return [
    np.resize(clip.mean((1, 2, 3))[::8], (4, 4, 4, len(clip[::8]))).T
    for clip in clips
  ]


def to_features(captions):
  """As many tokens as the caption has words."""
  full = lambda value, *shape: np.full(shape, value, np.float32)
  return [
    (
      full(len(text), len(text.split()) or 1, random_store.TEXT_DIM),
      full(len(text), random_store.POOLED_DIM),
    )
    for text in captions
  ]


def write_folder(path):
  """Two shapes of clips, an image, and three files that give no clip."""
  for i in range(4):
    videos.write_video(path / f"square {i}.mp4", videos.numbered(9 + i))
    videos.write_video(path / f"wide {i}.mp4", videos.numbered(17, 32, 64))
  videos.write_video(path / "long.mp4", videos.numbered(30))
  videos.write_video(path / "short.mp4", videos.numbered(5))
  PIL.Image.new("RGB", (40, 40), "red").save(path / "a red image.png")
  (path / "square 0.txt").write_text("a caption of its own\nand another")
  (path / "broken.mp4").write_bytes(b"no video")
  whole = (path / "wide 0.mp4").read_bytes()
  (path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
  return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp("videos"))


def run(folder, out, encode_video=to_latents, per_shard=4, config=CONFIG, **kw):
  clips = sources.open_clips(folder, config)
  writer = LatentWriter(
    out,
    random_store.METADATA,
    random_store.NULL,
    split_ids(clips.ids, per_shard),
    encode.stored_settings(config),
  )
  encode.encode_clips(
    clips, writer, encode_video, to_features, batch=config.batch, **kw
  )
  return encode.finish(clips, writer, config.fps, FlowConfig(stages=2), 2)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
  """The store of a run without interruption, its summary and its calls."""
  out, calls = tmp_path_factory.mktemp("out") / "store", []

  def record(clips, ids):
    calls.append(([clip.shape for clip in clips], ids))
    return to_latents(clips, ids)

  summary = run(folder, out, record)
  return latents.open_store(out), summary, calls


def test_every_usable_file_is_stored_once_with_its_caption(whole):
  store, _, _ = whole
  examples = {e["id"]: e for e in (store[i] for i in range(len(store)))}
  wide = {f"wide {i}.mp4": f"wide {i}" for i in range(4)}
  square = {f"square {i}.mp4": f"square {i}" for i in range(4)}
  assert {k: e["caption"] for k, e in examples.items()} == {
    **wide,
    **square,
    "square 0.mp4": "a caption of its own",
    "long.mp4": "long",
    "a red image.png": "a red image",
  }
  assert len(store) == len(examples)
  several = store.captions([e["id"] for e in store].index("square 0.mp4"))
  assert several == ["a caption of its own", "and another"]


def test_latents_and_text_are_those_of_the_clip(whole):
  store, _, _ = whole
  for example in (store[i] for i in range(len(store))):
    frames = example["frames"]
    assert len(example["latent"]) == 1 + (frames - 1) // 8
    if frames > 1:  # the first latent frame shows frame 0, the next frame 8
      shown = (example["latent"][:, 0, 0, 0] - 16) / 4
      np.testing.assert_array_equal(np.rint(shown), np.arange(0, frames, 8))
    length = len(example["caption"])
    assert (example["text"] == length).all()
    assert len(example["text"]) == len(example["caption"].split())
    assert (example["pooled"] == length).all()
    sizes = (example["height"], example["width"])
    assert sizes == (32, 64 if "wide" in example["id"] else 32)


def test_batches_are_full_and_only_the_rest_of_a_shard_mixes_lengths(
  folder, whole
):
  _, _, calls = whole
  shards = split_ids(sources.open_clips(folder, CONFIG).ids, 4)
  sizes = collections.defaultdict(list)
  for shapes, batch in calls:
    (shard,) = {next(s for s, x in enumerate(shards) if i in x) for i in batch}
    assert len({shape[1:] for shape in shapes}) == 1
    sizes[shard, shapes[0][1:]].append((len(batch), len(set(shapes))))
  for found in sizes.values():
    *full, (_, lengths) = found
    assert all(x == (CONFIG.batch, 1) for x in full)
    assert lengths <= 2
  assert len(calls) == 6  # of 10 clips in 4 shards


def test_files_left_out_are_named_with_their_reason(whole):
  store, summary, _ = whole
  lines = (store.path / "skipped.jsonl").read_text().splitlines()
  reasons = {x["id"]: x["reason"] for x in map(json.loads, lines)}
  assert reasons.keys() == {"broken.mp4", "cut.mp4", "short.mp4"}
  assert reasons["short.mp4"].startswith("too short: 5 frames at 24")
  assert sum(summary.skipped.values()) == 3
  text = str(summary)
  assert text.startswith("10 of 13 inputs stored: 9 videos of ")
  assert "3 inputs left out, see skipped.jsonl:\n" in text
  assert "  1 x too short" in text


def test_trimmed_clips_are_warned_of_and_counted(folder, tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    summary = run(folder, tmp_path / "store")
  told = [r.getMessage() for r in caplog.records]
  assert told == [
    f"square {i}.mp4: trimmed to 9 frames (8 n + 1); {i} left out"
    for i in (1, 2, 3)
  ]
  assert summary.trimmed == 3
  assert "3 clips lost frames at their end (8 n + 1)" in str(summary)


class Killed(BaseException):
  """Stands for the end of a process."""


@pytest.mark.parametrize("calls", [0, 2, 4, 5])
def test_a_killed_run_continues_to_the_same_store(
  folder, whole, tmp_path, calls
):
  done = []

  def die(clips, ids):
    if len(done) == calls:
      raise Killed
    done.append(ids)
    return to_latents(clips, ids)

  with pytest.raises(Killed):
    run(folder, tmp_path / "store", die)
  assert not list(tmp_path.rglob("*.partial"))
  with pytest.raises(ConfigError, match="Run the same pyramid-encode"):
    latents.open_store(tmp_path / "store")
  again = []

  def count(clips, ids):
    again.extend(ids)
    return to_latents(clips, ids)

  run(folder, tmp_path / "store", count)
  store = latents.open_store(tmp_path / "store")
  assert store.fingerprint == whole[0].fingerprint
  assert [store[i]["id"] for i in range(len(store))] == [
    whole[0][i]["id"] for i in range(len(store))
  ]
  for name in ("skipped.jsonl", "index.npz"):
    here, there = store.path / name, whole[0].path / name
    assert here.read_bytes() == there.read_bytes()
  if calls == 5:  # the first shard is done and not encoded again
    assert not set(again) & set(done[0])


def test_a_finished_store_is_left_alone(folder, whole):
  store, _, _ = whole
  files = {p: p.read_bytes() for p in store.path.iterdir()}

  def never(clips, ids):
    raise AssertionError(ids)

  run(folder, store.path, never)
  assert {p: p.read_bytes() for p in store.path.iterdir()} == files


def test_only_the_same_settings_continue_a_store(folder, whole):
  store, _, _ = whole
  run(folder, store.path, config=dataclasses.replace(CONFIG, batch=3))
  changes = {"fps": 12.0, "sizes": ((32, 32),), "image_sizes": ((32, 32),),
             "max_frames": 9, "min_frames": 1, "window": 8}  # fmt: skip
  for name, value in changes.items():
    other = dataclasses.replace(CONFIG, **{name: value})
    with pytest.raises(ConfigError, match=rf"config\.encode\.{name} "):
      run(folder, store.path, config=other)


def test_a_folder_without_one_usable_file_is_an_error(tmp_path):
  (tmp_path / "a.mp4").write_bytes(b"nothing")
  with pytest.raises(ConfigError, match="all 1 inputs were skipped; the first"):
    run(tmp_path, tmp_path / "store")


def test_the_embedded_dataset_is_encoded_whole(tmp_path):
  settings = shapes_store.ShapesConfig(clips=5, heldout=1, frames=9)
  folder = shapes_store.write(tmp_path / "shapes", settings)
  summary = run(folder, tmp_path / "store")
  store, stored = (
    latents.open_store(tmp_path / "store"),
    shapes_store.Stored(folder),
  )
  assert summary.stored == len(store) == len(stored)  # without the held-out
  for i in range(len(store)):
    assert store[i]["id"] == stored[i].id
    assert store[i]["caption"] == stored[i].caption
    assert (store[i]["height"], store[i]["width"]) == (64, 64)


def test_sizes_to_check_are_those_of_the_source(folder, tmp_path):
  found = sources.open_clips(folder, CONFIG)
  assert (found.sizes, found.max_frames) == (list(CONFIG.sizes), 17)
  settings = shapes_store.ShapesConfig(
    clips=1, heldout=1, frames=9, height=40, width=72
  )
  shapes = shapes_store.write(tmp_path / "shapes", settings)
  found = sources.open_clips(shapes, CONFIG)
  assert (list(found.sizes), found.max_frames) == ([(40, 72)], 9)


def test_the_summary_counts_clips_and_tokens(folder, whole):
  store, summary, _ = whole
  assert summary == Summary.read(store.path)
  sizes = store.lengths
  latent = int((sizes.frames * sizes.height * sizes.width).sum()) // 4
  assert summary.latent_tokens == [latent // 4, latent]
  assert summary.text_tokens == sizes.text.sum()
  assert (summary.inputs, summary.stored, summary.videos) == (13, 10, 9)
  assert summary.captions == 11
  frames = [e["frames"] for e in store if e["frames"] > 1]
  assert summary.video_frames == sum(frames)
  npt.assert_allclose(summary.video_hours, sum(frames) / 24 / 3600)
  assert sum(summary.skipped.values()) == 3
  assert summary.skipped["too short"] == 1
