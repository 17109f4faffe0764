"""Processes share a store; clips that wait are bounded, and so is waiting."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from pyramid_jax.config import ConfigError, FlowConfig
from pyramid_jax.data import encode, latents, sources
from pyramid_jax.data.latent_writer import LatentWriter, split_ids
from pyramid_jax.data.video import BadVideo, Clip
from tests.data import random_store, videos
from tests.data.test_encode import (
  CONFIG,
  Killed,
  run,
  to_features,
  to_latents,
  write_folder,
)


class Counted:
  """Clips that know how many of them were read and not yet encoded."""

  def __init__(self, count):
    self.ids = [f"{i:03d}" for i in range(count)]
    self.left_out = ()
    self.lock, self.held, self.most = threading.Lock(), 0, 0

  def captions(self, i):
    return [self.ids[i]]

  def read(self, i):
    with self.lock:
      self.held += 1
      self.most = max(self.most, self.held)
    if i % 7 == 3:
      raise BadVideo(f"frame {i} is damaged")
    return Clip(videos.numbered(9))


def test_clips_are_read_ahead_but_not_far(tmp_path):
  clips = Counted(100)
  writer = LatentWriter(
    tmp_path, random_store.METADATA, random_store.NULL, [clips.ids]
  )

  def to_latents_and_release(videos, ids):
    with clips.lock:
      clips.held -= len(ids)
    return to_latents(videos, ids)

  encode.encode_clips(
    clips, writer, to_latents_and_release, to_features, batch=4, threads=3
  )
  summary = encode.finish(clips, writer, 24, FlowConfig(), 2)
  assert summary.stored == 86 and sum(summary.skipped.values()) == 14
  # a batch that fills up, eight that wait, one more asked for; damaged ones
  # are held for good here
  assert clips.most <= 4 + 8 + 1 + 14


def encode_part(folder, out, process, processes, encode_video=to_latents):
  """What one of several processes does; returns its writer and clips."""
  clips = sources.open_clips(folder, CONFIG)
  writer = LatentWriter(
    out, random_store.METADATA, random_store.NULL, split_ids(clips.ids, 2)
  )
  written = encode.encode_clips(
    clips, writer, encode_video, to_features, batch=CONFIG.batch,
    process=process, processes=processes,
  )  # fmt: skip
  return clips, writer, written


def test_processes_share_the_shards_and_their_number_may_change(tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  write_folder(folder)
  alone, together = tmp_path / "alone", tmp_path / "together"
  summary = run(folder, alone, per_shard=2)
  died, seen = [], []

  def die(clips, ids):
    if len(died) == 2:
      raise Killed
    died.append(ids)
    return to_latents(clips, ids)

  def note(clips, ids):
    seen.append(ids)
    return to_latents(clips, ids)

  with pytest.raises(Killed):
    encode_part(folder, together, 1, 2, die)
  _, writer, _ = encode_part(folder, together, 0, 3, note)
  assert not {i for i in writer.missing() if i % 3 == 0}
  with pytest.raises(ConfigError, match=r"lacks \d of 7 shards"):
    writer.notes()
  written = 0
  for process in (1, 0):
    clips, writer, count = encode_part(folder, together, process, 2, note)
    written += count
  found = encode.finish(clips, writer, CONFIG.fps, FlowConfig(stages=2), 2)
  assert written < 6  # what was there was kept
  ids = [id for batch in seen for id in batch]
  assert len(ids) == len(set(ids))
  one, other = latents.open_store(alone), latents.open_store(together)
  assert one.fingerprint == other.fingerprint
  assert [x["id"] for x in one] == [x["id"] for x in other]
  timed = {"seconds": 0, "clips_per_second": 0, "device_idle": 0}
  assert dataclasses.replace(found, **timed) == dataclasses.replace(
    summary, **timed
  )
  assert found.seconds > 0 and 0 <= found.device_idle < 1


def test_the_time_that_the_encoder_waits_is_told(tmp_path):
  clips = Counted(12)
  read = clips.read
  clips.read = lambda i: time.sleep(0.05) or read(i)
  writer = LatentWriter(
    tmp_path, random_store.METADATA, random_store.NULL, [clips.ids]
  )
  encode.encode_clips(
    clips, writer, to_latents, to_features, batch=4, threads=1
  )
  slow = encode.finish(clips, writer, 24, FlowConfig(), 2)
  # 12 clips of 50 ms, of which the encoder has next to none to do
  assert slow.seconds > 0.6 and slow.device_idle > 0.5


def test_many_shapes_wait_within_a_bound(tmp_path):
  """64 clips of 4 sizes and 4 lengths, which come in the worst order."""

  class Shapes(Counted):
    def read(self, i):
      with self.lock:
        self.held += 1
        self.most = max(self.most, self.held)
      shape = 1 + 8 * (i % 4), 32, 32 * (1 + i // 4 % 4), 3
      return Clip(np.zeros(shape, np.uint8))

  clips, calls = Shapes(64), []
  writer = LatentWriter(
    tmp_path, random_store.METADATA, random_store.NULL, [clips.ids]
  )

  def record(videos, ids):
    with clips.lock:
      clips.held -= len(ids)
    calls.append(len(ids))
    assert len({v.shape[1:] for v in videos}) == 1
    return to_latents(videos, ids)

  encode.encode_clips(clips, writer, record, to_features, batch=4)
  assert sum(calls) == 64
  assert max(calls) == 4 and len(calls) <= 22  # 16 would all be full
  assert clips.most <= 4 * 4 + 1
