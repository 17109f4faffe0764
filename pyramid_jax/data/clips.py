"""Clips of pixels for VAE training: batch n is a function of (settings, n).

Clips come from the embedded dataset, a folder or a manifest. Files that cannot
be used are found before training starts and left out of the order, so that a
run never meets one, and never another clip in its place.

Legend: B clips, T frames, H W pixels.
"""

import concurrent.futures
import itertools
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import grain
import numpy as np

from pyramid_jax.config import ConfigError, Phase, VideoDataConfig
from pyramid_jax.data import files, order, video
from pyramid_jax.data.shapes_store import Stored
from pyramid_jax.data.video import BadVideo

log = logging.getLogger(__name__)

START, TOP, LEFT = range(3)  # what a hash is drawn for
HELDOUT_SHARE = 20  # of files, one in this many is held out


class Source(Protocol):
  """Clips of known lengths."""

  lengths: list[int]  # frames at the asked rate

  def read(self, i: int, start: int, phase: Phase, crop) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] from `start` on, of the phase's shape."""


class ShapeSource:
  """A split of the embedded dataset."""

  def __init__(self, folder: str | pathlib.Path, split: str):
    self.stored = Stored(folder, split)
    self.lengths = [self.stored.settings.frames] * len(self.stored)

  def read(self, i: int, start: int, phase: Phase, crop) -> np.ndarray:
    frames = self.stored[i].video[start : start + phase.frames]
    size = (phase.height, phase.width)
    if frames.shape[1:3] == size:
      return frames
    return np.stack([video.crop_to(f, size, crop) for f in frames])


class FileSource:
  """Videos and images; broken ones are left out and logged."""

  def __init__(self, items: Sequence[files.Item], fps: float):
    self.fps = fps
    self.items, self.timelines, self.lengths = [], [], []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      for item, found in zip(items, pool.map(self._look, items), strict=True):
        if isinstance(found, BadVideo):
          log.warning("%s is left out: %s", item.path, found)
          continue
        self.items.append(item)
        self.timelines.append(found)
        self.lengths.append(len(found.picks) if found else 1)

  def _look(self, item: files.Item):
    try:
      if item.kind == "image":
        video.read_clip(item.path, [(8, 8)])
        return None
      return video.read_timeline(item.path, self.fps)
    except BadVideo as error:
      return error

  def read(self, i: int, start: int, phase: Phase, crop) -> np.ndarray:
    item = self.items[i]
    try:
      return video.read_clip(
        item.path, [(phase.height, phase.width)], self.fps, phase.frames,
        phase.frames, start, self.timelines[i], crop,
      ).video  # fmt: skip
    except BadVideo as error:
      raise ConfigError(
        f"{item.path} cannot be decoded: {error}. Remove it from the data and "
        "start again with a new --workdir."
      ) from error


def open_source(path: str, fps: float, *, heldout: bool) -> Source:
  """The training or the held-out clips below a path.

  The embedded dataset has its own split; of files, every `HELDOUT_SHARE`-th is
  held out, and one at least if there are two.
  """
  if not path:
    raise ConfigError(
      "config.videos.path is empty; name the embedded dataset, a folder of "
      "videos or a manifest, or give --data."
    )
  if (pathlib.Path(path) / "dataset_info.json").exists():
    return ShapeSource(path, "heldout" if heldout else "train")
  items = files.find_files(path)
  held = set(range(0, len(items), HELDOUT_SHARE)) if len(items) > 1 else set()
  chosen = [x for i, x in enumerate(items) if (i in held) == heldout]
  source = FileSource(chosen or items, fps)
  if not source.lengths:
    raise ConfigError(f"none of the {len(items)} files of {path} can be read.")
  return source


class TrainingClips:
  """Random clips of the config's phases.

  Raises:
    ConfigError: nothing to read, or a phase longer than every clip.
  """

  def __init__(self, config: VideoDataConfig, seed: int):
    self.phases, self.seed = config.phases, seed
    self.source = open_source(config.path, config.fps, heldout=False)
    self.long_enough = {
      frames: [i for i, n in enumerate(self.source.lengths) if n >= frames]
      for frames in {phase.frames for phase in config.phases}
    }
    for frames, fit in self.long_enough.items():
      if not fit:
        raise ConfigError(
          f"a phase of config.videos trains on {frames} frames, but the longest "
          f"clip of {config.path} has {max(self.source.lengths)}."
        )
    self.ends = list(itertools.accumulate(p.steps for p in config.phases))
    sizes = [p.steps * p.batch for p in config.phases]
    self.first = [0, *itertools.accumulate(sizes)]

  def phase(self, step: int) -> int:
    """Number of the phase that a step belongs to; the last one goes on."""
    found = int(np.searchsorted(self.ends, step, side="right"))
    return min(found, len(self.ends) - 1)

  def rows(self, step: int) -> int:
    """Clips in the batch of a step."""
    return self.phases[self.phase(step)].batch

  def clip(self, step: int, place: int) -> dict[str, np.ndarray]:
    """Clip `place` of a step's batch: video float32 in [-1, 1], index."""
    p = self.phase(step)
    phase = self.phases[p]
    begun = self.ends[p - 1] if p else 0
    n = self.first[p] + (step - begun) * phase.batch + place
    fit = self.long_enough[phase.frames]
    epoch, position = divmod(n, len(fit))
    i = fit[
      int(order.permute(np.array([position]), len(fit), self.seed, epoch)[0])
    ]
    spare = self.source.lengths[i] - phase.frames + 1
    start = int(order.uniform(self.seed, n, START) * spare)
    crop = tuple(float(order.uniform(self.seed, n, k)) for k in (TOP, LEFT))
    frames = self.source.read(i, start, phase, crop)
    return {"video": to_float(frames), "index": np.int32(n)}

  def batches(
    self, start: int, places_of, workers: int = 0
  ) -> Iterator[dict[str, np.ndarray]]:
    """Batches from a step on, of the places that `places_of(rows)` names."""
    del workers
    return iter(
      grain.MapDataset.source(_Steps(self, start, places_of)).to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
      )
    )


class _Steps:
  """Batches by number, for grain."""

  def __init__(self, clips: TrainingClips, start: int, places_of):
    self.clips, self.start, self.places_of = clips, start, places_of

  def __len__(self) -> int:
    return 2**31 - 1

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    step = self.start + int(n)
    places = self.places_of(self.clips.rows(step))
    parts = [self.clips.clip(step, place) for place in places]
    return {k: np.stack([part[k] for part in parts]) for k in parts[0]}


def heldout_clips(config: VideoDataConfig, count: int) -> list[np.ndarray]:
  """Held-out clips float32 [T, H, W, 3], of the shape of the last phase."""
  phase = config.phases[-1]
  source = open_source(config.path, config.fps, heldout=True)
  fit = [i for i, n in enumerate(source.lengths) if n >= phase.frames]
  if not fit:
    raise ConfigError(
      f"no held-out clip of {config.path} has the {phase.frames} frames of the "
      "last phase of config.videos."
    )
  return [to_float(source.read(i, 0, phase, (0.5, 0.5))) for i in fit[:count]]


def to_float(frames: np.ndarray) -> np.ndarray:
  """Bytes as float32 pixels in [-1, 1]."""
  return frames.astype(np.float32) / 127.5 - 1
