"""Clips and captions to a store of latents; the encoders are callables.

Files are decoded by threads ahead of the device, clips of one size are encoded
together, and the store grows shard by shard, so that a killed run continues.
Several processes share the shards: shard i belongs to process i mod N.

Legend: T frames, H W pixels.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from pyramid_jax.config import EncodeConfig, FlowConfig
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.data.latent_record import Prompt
from pyramid_jax.data.latent_shard import ShardWriter
from pyramid_jax.data.latent_writer import LatentWriter
from pyramid_jax.data.sources import Clips
from pyramid_jax.data.summary import Summary, summarise
from pyramid_jax.data.video import Clip

log = logging.getLogger(__name__)

# videos uint8 [T, H, W, 3] of one H, W and their ids -> latents, one each
EncodeVideo = Callable[[list[np.ndarray], list[str]], list[np.ndarray]]
# captions -> (features [n, E], pooled [P]), one each
EncodeText = Callable[[list[str]], list[tuple[np.ndarray, np.ndarray]]]
Waiting = list[tuple[str, np.ndarray]]  # ids and videos


def stored_settings(config: EncodeConfig) -> dict[str, Any]:
  """Those that decide what is stored; a batch gives what single clips do."""
  values = dataclasses.asdict(config)
  del values["batch"]
  return values


def encode_clips(
  clips: Clips,
  writer: LatentWriter,
  encode_video: EncodeVideo,
  encode_text: EncodeText,
  *,
  batch: int = 8,
  threads: int = 2,
  process: int = 0,
  processes: int = 1,
) -> int:
  """Writes the shards of a process that are not there yet; returns how many.

  A file that cannot be used is left out and noted with its reason. At most
  4 x `batch` + 1 decoded clips are in memory.
  """
  place = {id: i for i, id in enumerate(clips.ids)}
  mine = [i for i in writer.missing() if i % processes == process]
  places = [place[id] for i in mine for id in writer.shards[i]]
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  quiet = None if process == 0 else True  # None: no bar unless on a terminal
  try:
    with tqdm(total=len(places), unit="clip", disable=quiet) as bar:
      reader = _Reader(_read_ahead(pool, clips.read, places, 2 * batch))
      for index in mine:
        with writer.shard(index) as shard:
          ids = writer.shards[index]
          captions = [clips.captions(place[id]) for id in ids]
          prompts = dict(zip(ids, _prompts(captions, encode_text), strict=True))
          encoding = _Shard(shard, prompts, encode_video, batch)
          for id in ids:
            encoding.take(id, reader.next())
            bar.update()
          encoding.finish()
          shard.noted |= reader.times() | {"processes": processes}
  finally:
    pool.shutdown(cancel_futures=True)
  return len(mine)


def finish(
  clips: Clips, writer: LatentWriter, fps: float, flow: FlowConfig, patch: int
) -> Summary:
  """Makes a store of the shards, once all are there; one process calls this.

  Raises:
    ConfigError: shards are missing, or no clip could be stored.
  """
  if not writer.complete:
    summary = summarise(writer.notes(), clips.left_out, fps, flow.stages, patch)
    left_out = [{"id": w, "reason": reason} for w, reason in clips.left_out]
    writer.finish(left_out, summary)
  writer.finish()  # removes what a killed run may have left
  return Summary.read(writer.path)


class _Shard:
  """What becomes of the clips of a shard: batches, and notes of them.

  Clips wait for `batch` of the same shape; when twice as many wait, those of
  the size that most of them have go together, the longest first. So do those
  that remain at the end.
  """

  def __init__(self, shard: ShardWriter, prompts, encode, batch: int):
    self.shard, self.prompts = shard, prompts
    self.encode, self.batch = encode, batch
    self.waiting: Waiting = []
    self.noted = shard.noted
    self.noted |= {"videos": 0, "video_frames": 0, "trimmed": 0}
    self.noted["no_caption"] = 0

  def take(self, id: str, result: Clip | BadVideo) -> None:
    """Takes in a clip, or notes why there is none."""
    if isinstance(result, BadVideo):
      self.shard.skip(id, str(result))
      return
    if result.trimmed:
      self.noted["trimmed"] += 1
      log.warning(
        "%s: trimmed to %d frames (8 n + 1); %d left out",
        id, len(result.video), result.trimmed,
      )  # fmt: skip
    self.waiting.append((id, result.video))
    same = [x for x in self.waiting if x[1].shape == result.video.shape]
    if len(same) == self.batch:
      self._store(same)
    elif len(self.waiting) == 2 * self.batch:
      self._store(_fullest(self.waiting)[: self.batch])

  def finish(self) -> None:
    """Encodes what still waits."""
    while self.waiting:
      self._store(_fullest(self.waiting)[: self.batch])

  def _store(self, clips: Waiting) -> None:
    """Encodes clips of one size and adds them to the shard."""
    ids, videos = (list(x) for x in zip(*clips, strict=True))
    for (id, video_THWC), latent in zip(
      clips, self.encode(videos, ids), strict=True
    ):
      frames, height, width, _ = video_THWC.shape
      example = {"id": id, "latent": latent}
      example |= {"frames": frames, "height": height, "width": width}
      first, *others = self.prompts[id]
      self.shard.add({**example, **first._asdict()}, others)
      if frames > 1:
        self.noted["videos"] += 1
        self.noted["video_frames"] += frames
      self.noted["no_caption"] += not any(p.caption for p in self.prompts[id])
    done = set(ids)
    self.waiting = [x for x in self.waiting if x[0] not in done]


def _fullest(waiting: Waiting) -> Waiting:
  """The clips of the size that most have, longest first."""
  sizes = collections.defaultdict(list)
  for clip in waiting:
    sizes[clip[1].shape[1:]].append(clip)
  return sorted(max(sizes.values(), key=len), key=lambda x: -len(x[1]))


def _prompts(
  captions: Sequence[Sequence[str]], encode: EncodeText
) -> list[list[Prompt]]:
  """For each clip its captions with their features."""
  flat = [caption for several in captions for caption in several]
  features = iter(encode(flat))
  return [[Prompt(x, *next(features)) for x in several] for several in captions]


class _Reader:
  """Clips in turn; knows the time, and how much of it was spent on waiting."""

  def __init__(self, clips: Iterator[Clip | BadVideo]):
    self.clips, self.waited, self.since = clips, 0.0, time.monotonic()

  def next(self) -> Clip | BadVideo:
    """The next clip."""
    asked = time.monotonic()
    clip = next(self.clips)
    self.waited += time.monotonic() - asked
    return clip

  def times(self) -> dict[str, float]:
    """Seconds since the last call, and those of them spent on waiting."""
    now = time.monotonic()
    result = {"seconds": now - self.since, "waited": self.waited}
    self.since, self.waited = now, 0.0
    return result


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
