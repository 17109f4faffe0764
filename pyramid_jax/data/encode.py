"""Clips and captions to a store of latents; the encoders are callables.

Files are decoded by threads ahead of the device, clips of one shape are
encoded together, and the store grows shard by shard, so that a killed run
continues.

Legend: T frames, H W pixels.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from tqdm import tqdm

from pyramid_jax.config import EncodeConfig
from pyramid_jax.data import files, video
from pyramid_jax.data.latent_writer import LatentWriter, ShardWriter
from pyramid_jax.data.shapes_store import Stored
from pyramid_jax.data.video import BadVideo, Clip

log = logging.getLogger(__name__)

# videos uint8 [T, H, W, 3] of one shape and their ids -> latents, one each
EncodeVideo = Callable[[list[np.ndarray], list[str]], list[np.ndarray]]
# captions -> (features [n, E], pooled [P]), one each
EncodeText = Callable[[list[str]], list[tuple[np.ndarray, np.ndarray]]]


class Clips(Protocol):
  """Captioned clips that can be read in any order, from threads."""

  ids: list[str]
  captions: list[str]
  sizes: Sequence[tuple[int, int]]  # (height, width) that clips may have
  max_frames: int

  def read(self, i: int) -> Clip:
    """Frames of clip i, or `BadVideo`."""


class FileClips:
  """The files of a folder or manifest, at the config's rate and sizes."""

  def __init__(self, path: str | pathlib.Path, config: EncodeConfig):
    self.items = files.find_files(path)
    self.ids = [item.id for item in self.items]
    self.captions = [item.caption for item in self.items]
    self.sizes, self.max_frames = config.sizes, config.max_frames
    self.config = config

  def read(self, i: int) -> Clip:
    c, item = self.config, self.items[i]
    return video.read_clip(
      item.path, c.sizes, c.fps, c.max_frames, c.min_frames, sha256=item.sha256
    )


class ShapeClips:
  """The training split of the embedded dataset."""

  def __init__(self, folder: str | pathlib.Path):
    self.stored = Stored(folder)
    examples = [self.stored[i] for i in range(len(self.stored))]
    self.ids = [e.id for e in examples]
    self.captions = [e.caption for e in examples]
    settings = self.stored.settings
    self.sizes = [(settings.height, settings.width)]
    self.max_frames = settings.frames

  def read(self, i: int) -> Clip:
    return Clip(self.stored[i].video)


def open_clips(path: str | pathlib.Path, config: EncodeConfig) -> Clips:
  """The embedded dataset, a folder of files, a manifest or one file.

  Raises:
    ConfigError: nothing there that can be read.
  """
  if (pathlib.Path(path) / "dataset_info.json").exists():
    return ShapeClips(path)
  return FileClips(path, config)


@dataclasses.dataclass
class Summary:
  """What became of the clips of this run."""

  stored: int = 0
  video_frames: int = 0
  trimmed: int = 0
  skipped: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  def __str__(self) -> str:
    lines = [f"{self.stored} clips stored, {self.video_frames} frames"]
    if self.trimmed:
      lines.append(f"{self.trimmed} clips lost frames at their end (8 n + 1)")
    if self.skipped:
      lines.append(f"{self.skipped.total()} files left out, see skipped.jsonl:")
      lines += [f"  {n} x {why}" for why, n in self.skipped.most_common()]
    return "\n".join(lines)


def encode_clips(
  clips: Clips,
  writer: LatentWriter,
  encode_video: EncodeVideo,
  encode_text: EncodeText,
  *,
  batch: int = 8,
  threads: int = 2,
) -> Summary:
  """Writes every clip that is not stored yet, and finishes the store.

  A file that cannot be used is left out, with its reason in skipped.jsonl.

  Raises:
    ConfigError: no clip could be stored.
  """
  place = {id: i for i, id in enumerate(clips.ids)}
  missing = writer.missing()
  total = sum(len(writer.shards[s]) for s in missing)
  summary = Summary()
  with (
    tqdm(total=total, unit="clip", desc="encode", disable=None) as bar,
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
  ):
    for index in missing:
      ids = writer.shards[index]
      captions = [clips.captions[place[id]] for id in ids]
      prompts = dict(zip(ids, encode_text(captions), strict=True))
      read = _read_ahead(pool, clips.read, [place[id] for id in ids], 2 * batch)
      with writer.shard(index) as shard:
        waiting: dict[tuple, list[tuple[str, np.ndarray]]] = {}
        for id, result in zip(ids, read, strict=True):
          bar.update()
          if isinstance(result, BadVideo):
            shard.skip(id, str(result))
            summary.skipped[_kind_of(result)] += 1
            continue
          if result.trimmed:
            summary.trimmed += 1
            log.warning(
              "%s: trimmed to %d frames (8 n + 1); %d left out",
              id, len(result.video), result.trimmed,
            )  # fmt: skip
          same = waiting.setdefault(result.video.shape, [])
          same.append((id, result.video))
          if len(same) == batch:
            _store(shard, same, clips, place, prompts, encode_video, summary)
            same.clear()
        for same in waiting.values():
          if same:
            _store(shard, same, clips, place, prompts, encode_video, summary)
  writer.finish()
  return summary


def _store(shard: ShardWriter, same, clips, place, prompts, encode, summary):
  """Encodes clips of one shape and adds them to the shard."""
  ids, videos = (list(x) for x in zip(*same, strict=True))
  for id, video_THWC, latent in zip(
    ids, videos, encode(videos, ids), strict=True
  ):
    features, pooled = prompts[id]
    frames, height, width, _ = video_THWC.shape
    shard.add(
      {
        "id": id,
        "caption": clips.captions[place[id]],
        "latent": latent,
        "text": features,
        "pooled": pooled,
        "frames": frames,
        "height": height,
        "width": width,
      }
    )
    summary.stored += 1
    summary.video_frames += frames


def _read_ahead(
  pool: concurrent.futures.Executor,
  read: Callable[[int], Clip],
  places: Sequence[int],
  ahead: int,
) -> Iterator[Clip | BadVideo]:
  """Clips in order, read by the pool, at most `ahead` of them waiting."""

  def one(i: int) -> Clip | BadVideo:
    try:
      return read(i)
    except BadVideo as error:
      return error

  left = iter(places)
  running = collections.deque(
    pool.submit(one, i) for i in itertools.islice(left, ahead)
  )
  while running:
    done = running.popleft().result()
    for i in itertools.islice(left, 1):
      running.append(pool.submit(one, i))
    yield done


def _kind_of(reason: BadVideo) -> str:
  """A reason without the numbers that differ from file to file."""
  return str(reason).split(":")[0]
