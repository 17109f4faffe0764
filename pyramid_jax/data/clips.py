"""Clips of pixels for VAE training: batch n is a function of (settings, n).

Clips come from the embedded dataset, a folder or a manifest; images from its
image files, or where it has none from single frames of its clips. Which clip
stands where, which of its frames and which part of them are taken comes from
hashes, so that a run continues exactly at any step, on any number of processes.

A file that cannot be opened, or is too short for every phase, is left out
before training starts, and named. One whose damage shows only when it is
decoded is replaced by another clip that a hash names, each time the same, and a
warning names the file.

Legend: B clips, T frames, H W pixels.
"""

import concurrent.futures
import hashlib
import json
import logging
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import grain
import numpy as np
import PIL.Image
import tqdm

from pyramid_jax.config import ConfigError, Phase, VideoDataConfig
from pyramid_jax.data import files, order, pipeline, shapes, video
from pyramid_jax.data.damage import BadVideo, check_hash
from pyramid_jax.data.phases import Schedule
from pyramid_jax.data.shapes_store import Stored

log = logging.getLogger(__name__)

START, TOP, LEFT, INSTEAD = range(4)  # what a hash is drawn for
OF_IMAGES = 1  # in the key of an epoch's order
HELDOUT_SHARE = 20  # of files, about one in this many is held out
TRIES = 20  # damaged clips in a row that end the run
Crop = tuple[float, float]
Skipped = list[tuple[str, str]]  # file, reason
Batch = dict[str, np.ndarray]


class Source(Protocol):
  """Clips of known lengths, read in any order, from threads.

  Attributes:
    names: for messages.
    ids: the same wherever the clips lie.
    lengths: frames, at the asked rate.
    images: which of them are image files.
  """

  names: list[str]
  ids: list[str]
  lengths: np.ndarray
  images: np.ndarray

  def read(self, i: int, start: int, phase: Phase, crop: Crop) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] from `start` on, of the phase's shape.

    Raises:
      BadVideo: they cannot be decoded.
    """


class ShapeSource:
  """A split of the embedded dataset."""

  def __init__(self, folder: pathlib.Path, split: str):
    self.stored = Stored(folder, split)
    count = len(self.stored)
    self.names = [f"{folder}, {split} clip {i}" for i in range(count)]
    self.ids = [f"{self.stored.settings} {split} {i}" for i in range(count)]
    self.lengths = np.full(count, self.stored.settings.frames)
    self.images = np.zeros(count, bool)

  def read(self, i: int, start: int, phase: Phase, crop: Crop) -> np.ndarray:
    frames = self.stored.frames(i, start, start + phase.frames)
    return _resize(frames, (phase.height, phase.width), crop)


class FileSource:
  """Videos and images, with their timelines."""

  def __init__(
    self,
    items: Sequence[files.Item],
    timelines: Sequence[video.Timeline],
    fps: float,
  ):
    self.names = [str(item.path) for item in items]
    self.ids = [item.id for item in items]
    self.lengths = np.array([len(t.picks) for t in timelines], int)
    self.images = np.array([item.kind == "image" for item in items])
    self.timelines, self.fps = list(timelines), fps

  def read(self, i: int, start: int, phase: Phase, crop: Crop) -> np.ndarray:
    return video.read_clip(
      self.names[i],
      [(phase.height, phase.width)],
      self.fps,
      max_frames=phase.frames,
      min_frames=phase.frames,
      start=start,
      timeline=self.timelines[i],
      crop=crop,
    ).video


def open_sources(config: VideoDataConfig) -> tuple[Source, Source, Skipped]:
  """The training and the held-out clips, and the files that are left out.

  The embedded dataset has its own split. Of videos and of images each, those
  whose id hashes to 0 modulo 20 are held out, or else the first by hash.

  Raises:
    ConfigError: nothing to train on, or nothing to hold out.
  """
  if not config.path:
    raise ConfigError(
      "config.videos.path is empty; name the embedded dataset, a folder of "
      "videos or a manifest, or give --data."
    )
  path = pathlib.Path(config.path)
  if not (path / "dataset_info.json").exists():
    return _open_files(path, config)
  if config.fps != shapes.FPS:
    raise ConfigError(
      f"config.videos.fps is {config.fps:g}, but {path} holds clips of "
      f"{shapes.FPS} frames a second; set it to {shapes.FPS}."
    )
  return ShapeSource(path, "train"), ShapeSource(path, "heldout"), []


class TrainingClips:
  """Random clips and images of the config's phases, and the held-out clips.

  Attributes:
    schedule: which shape each batch has.
    skipped: files that are left out, with the reasons.
    settings: which clips there are, by id; beside the config's settings the
      rows of a step depend on nothing else.

  Raises:
    ConfigError: nothing to read, or a phase longer than every clip.
  """

  def __init__(self, config: VideoDataConfig, seed: int):
    self.seed, self.workers = seed, config.workers
    self.schedule = Schedule(config.phases, seed)
    self.source, self.held_out, self.skipped = open_sources(config)
    self.last = config.phases[-1]
    self.fit = [
      _long_enough(self.source, phase, "training") for phase in config.phases
    ]
    _long_enough(self.held_out, self.last, "held-out")
    files = np.flatnonzero(self.source.images)
    self.images = files if len(files) else np.arange(len(self.source.names))
    self.reported: set[str] = set()
    self.settings = {
      "clips to train on": _summary(self.source),
      "clips held out": _summary(self.held_out),
    }

  def clip(self, step: int, place: int) -> Batch:
    """Clip `place` of a step's batch: video float32 in [-1, 1], index."""
    number = self.schedule.rows(step)[place]
    fit, at = self._at(step, place)
    frames = self._read(self.schedule.shape(step), number, fit, at)
    return {"video": to_float(frames), "index": np.int32(number)}

  def samples(self, step: int) -> list[str]:
    """Names of the clips in a step's batch, damaged ones among them."""
    count = len(self.schedule.rows(step))
    places = [self._at(step, place) for place in range(count)]
    return [self.source.names[fit[at]] for fit, at in places]

  def _at(self, step: int, place: int) -> tuple[np.ndarray, int]:
    """The clips that fit a step, and which of them stands at a place."""
    p, images = self.schedule.phase(step), self.schedule.has_images(step)
    fit = self.images if images else self.fit[p]
    epoch, position = divmod(self.schedule.position(step) + place, len(fit))
    key = (self.seed, p, epoch, *[OF_IMAGES] * images)
    return fit, int(order.permute(np.array([position]), len(fit), *key)[0])

  def _read(
    self, shape: Phase, number: int, fit: np.ndarray, at: int
  ) -> np.ndarray:
    """Row `number` from the clip `at` of those that fit, or from another."""
    draw = lambda *key: float(order.uniform(self.seed, number, *key))
    for attempt in range(TRIES):
      i = int(fit[at])
      spare = int(self.source.lengths[i]) - shape.frames
      start = int(draw(START, attempt) * (spare + 1))
      crop = draw(TOP, attempt), draw(LEFT, attempt)
      try:
        return self.source.read(i, start, shape, crop)
      except BadVideo as error:
        self._report(self.source.names[i], error)
      at = int(draw(INSTEAD, attempt) * len(fit))
    raise ConfigError(
      f"{TRIES} clips one after the other cannot be decoded; the warnings name "
      "them. Remove the damaged files."
    )

  def _report(self, name: str, error: BadVideo) -> None:
    if name not in self.reported:
      self.reported.add(name)
      log.warning("%s is damaged, another clip is used: %s", name, error)

  def batches(
    self, steps: Sequence[int], places_of: Callable[[int], Sequence[int]]
  ) -> Iterator[Batch]:
    """The batches of steps, of the places that `places_of(rows)` names."""
    loaded = grain.MapDataset.source(_Steps(self, steps, places_of))
    return iter(pipeline.load_ahead(loaded, self.workers))

  def heldout(self, count: int) -> list[np.ndarray]:
    """Held-out clips float32 [T, H, W, 3], of the shape of the last phase.

    Always the same ones: the middle of each clip, at most `count`.

    Raises:
      ConfigError: none can be decoded.
    """
    phase, found = self.last, []
    for i in _long_enough(self.held_out, phase, "held-out"):
      start = (int(self.held_out.lengths[i]) - phase.frames) // 2
      try:
        frames = self.held_out.read(int(i), start, phase, (0.5, 0.5))
      except BadVideo as error:
        name = self.held_out.names[i]
        log.warning("%s is damaged and not measured on: %s", name, error)
        continue
      found.append(to_float(frames))
      if len(found) == count:
        break
    if not found:
      raise ConfigError(
        "no held-out clip can be decoded; the warnings name them."
      )
    return found


class _Steps:
  """Batches by number, for grain."""

  def __init__(self, clips: TrainingClips, steps: Sequence[int], places_of):
    self.clips, self.steps = clips, steps
    # evaluated here, since loader processes know no mesh
    shapes = [s for phase in clips.schedule.phases for s in phase.shapes]
    self.places = {s.batch: tuple(places_of(s.batch)) for s in shapes}

  def __len__(self) -> int:
    return len(self.steps)

  def __getitem__(self, n: int) -> Batch:
    step = self.steps[int(n)]
    places = self.places[len(self.clips.schedule.rows(step))]
    parts = [self.clips.clip(step, place) for place in places]
    return {k: np.stack([part[k] for part in parts]) for k in parts[0]}


def to_float(frames: np.ndarray) -> np.ndarray:
  """Bytes as float32 pixels in [-1, 1]."""
  return frames.astype(np.float32) / 127.5 - 1


def _summary(source: Source) -> str:
  """How many clips, and a hash of their ids, lengths and kinds."""
  lists = source.ids, source.lengths.tolist(), source.images.tolist()
  digest = hashlib.sha256(json.dumps(lists).encode()).hexdigest()
  return f"{len(source.names)} ({digest[:16]})"


def _long_enough(source: Source, phase: Phase, kind: str) -> np.ndarray:
  """Which clips have a phase's number of frames."""
  fit = np.flatnonzero(source.lengths >= phase.frames)
  if not len(fit):
    raise ConfigError(
      f"a phase of config.videos needs {phase.frames} frames, but the longest "
      f"of {len(source.lengths)} {kind} clips has "
      f"{max(source.lengths, default=0)}. Use fewer frames or longer clips."
    )
  return fit


def _open_files(
  path: pathlib.Path, config: VideoDataConfig
) -> tuple[Source, Source, Skipped]:
  """Reads all timelines; leaves out what has none or is too short."""
  (items, left_out), fps = files.find_files(path), config.fps
  shortest = {"video": min(phase.frames for phase in config.phases)}
  mixed = any(phase.image_ratio for phase in config.phases)
  shortest["image"] = 1 if mixed else shortest["video"]

  def look(item: files.Item) -> video.Timeline | str:
    try:
      timeline = video.read_timeline(item.path, fps)
      if item.sha256:
        check_hash(item.path, item.sha256)
    except BadVideo as error:
      return str(error)
    if len(timeline.picks) < shortest[item.kind]:
      return (
        f"too short: {len(timeline.picks)} frames at {fps:g} a second, at "
        f"least {shortest[item.kind]} are needed"
      )
    return timeline

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = tqdm.tqdm(
      pool.map(look, items), "look at files", len(items), disable=None
    )
    looked = list(zip(items, found, strict=True))
  pairs = [(i, t) for i, t in looked if not isinstance(t, str)]
  skipped = [
    *left_out,
    *((str(i.path), why) for i, why in looked if isinstance(why, str)),
  ]
  for name, why in skipped:
    log.warning("%s is left out: %s", name, why)
  held = _held_out([item for item, _ in pairs])
  train = [pair for pair in pairs if pair[0].id not in held]
  if not train or not held:
    raise ConfigError(
      f"{path} has {len(pairs)} usable of {len(items)} files; at least 2 of "
      "one kind are needed, one to train on and one to measure on."
    )
  heldout = [pair for pair in pairs if pair[0].id in held]
  log.info(
    "%d files to train on, %d held out, %d left out",
    len(train),
    len(heldout),
    len(skipped),
  )
  return (
    FileSource(*zip(*train, strict=True), fps),
    FileSource(*zip(*heldout, strict=True), fps),
    skipped,
  )


def _held_out(items: Sequence[files.Item]) -> set[str]:
  """Ids to hold out, by a hash that other files do not change."""
  digest = lambda id: zlib.crc32(id.encode())
  held = set()
  for kind in ("video", "image"):
    ids = [item.id for item in items if item.kind == kind]
    chosen = {id for id in ids if digest(id) % HELDOUT_SHARE == 0}
    if len(ids) > 1:
      held |= chosen if 0 < len(chosen) < len(ids) else {min(ids, key=digest)}
  return held


def _resize(frames: np.ndarray, size: tuple[int, int], crop: Crop):
  """Makes [T, H, W, 3] cover the size and crops it."""
  _, resized = video.cover(*frames.shape[1:3], [size])
  if resized != frames.shape[1:3]:
    images = [PIL.Image.fromarray(f).resize(resized[::-1]) for f in frames]
    frames = np.stack([np.asarray(image) for image in images])
  return video.crop_to(frames, size, crop)
