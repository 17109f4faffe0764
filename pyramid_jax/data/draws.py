"""What each sample of the endless order is: its units, stages and lengths.

All of it is drawn from hashes of (seed, source, epoch, sample), so a sample is
the same wherever it stands and whoever loads it.

Legend: N samples, k choices a sample (segments per clip), K stages.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pyramid_jax.config import ConfigError, FlowConfig, LatentDataConfig
from pyramid_jax.data import order
from pyramid_jax.data.latents import Lengths
from pyramid_jax.flow import history

STAGE, UNIT, DROP, CAPTION = range(2**32, 2**32 + 4)  # what a hash is drawn for


class Choice(NamedTuple):
  """One segment of a sample."""

  unit: int
  stage: int
  drop: bool  # train on the null prompt instead


class Pick(NamedTuple):
  """One sample of a row."""

  source: int
  epoch: int
  sample: int
  choices: tuple[Choice, ...]
  caption: int = 0  # which of the clip's


@dataclasses.dataclass(frozen=True)
class Samples:
  """Samples with what was drawn for them, one entry or line each."""

  source: np.ndarray  # [N]
  epoch: np.ndarray
  sample: np.ndarray
  unit: np.ndarray  # [N, k]
  stage: np.ndarray
  drop: np.ndarray
  latent: np.ndarray  # [N], tokens of all choices
  text: np.ndarray
  caption: np.ndarray

  def take(self, index: np.ndarray) -> "Samples":
    """These samples, in this order."""
    return Samples(
      *(getattr(self, f.name)[index] for f in dataclasses.fields(self))
    )

  def pick(self, i: int) -> Pick:
    """The i-th sample with its choices."""
    drawn = (self.unit[i], self.stage[i], self.drop[i])
    return Pick(
      int(self.source[i]),
      int(self.epoch[i]),
      int(self.sample[i]),
      tuple(map(Choice, *(x.tolist() for x in drawn))),
      int(self.caption[i]),
    )


class Draws:
  """The endless order of samples, measured in tokens.

  Raises:
    ConfigError: sizes that do not divide into patches at the coarsest level,
      or settings that make no sense.
  """

  def __init__(
    self,
    lengths: Sequence[Lengths],
    null_text: int,
    config: LatentDataConfig,
    flow: FlowConfig,
    patch: int,
    seed: int,
  ):
    _check(config, flow.stages)
    for source, sizes in enumerate(lengths):
      _check_sizes(source, sizes, flow.stages, patch)
    self.config, self.flow, self.seed = config, flow, seed
    self.mixture = order.Mixture(
      tuple(len(x.frames) for x in lengths),
      tuple(s.weight for s in config.sources),
      seed,
    )
    self._first = np.cumsum([0, *self.mixture.sizes[:-1]])
    frames, height, width = (
      np.concatenate([getattr(x, name) for x in lengths]).astype(np.int32)
      for name in ("frames", "height", "width")
    )
    units = 1 + (frames - 1) // flow.frames_per_unit
    self.units = np.minimum(units, config.max_units or units.max())
    self.coarsest = height * width // patch**2 >> 2 * (flow.stages - 1)
    self.text, self.null_text = _texts(lengths), null_text
    self._captions = np.count_nonzero(self.text, axis=1)
    self.tokens = unit_tokens(int(self.units.max()), flow)
    weights = np.array(config.stage_weights or (1.0,) * flow.stages)
    self._stages = np.flatnonzero(weights)
    self._upto = np.cumsum(weights[self._stages])[:-1] / weights.sum()

  def at(self, turn: int, positions: np.ndarray) -> Samples:
    """The samples at positions of the `turn`-th pass over the mixture."""
    source, epoch, sample = self.mixture.at(turn, positions)
    clip = self._first[source] + sample
    who = [x[:, None] for x in (source, epoch, sample)]
    choice = np.arange(self.config.segments_per_clip)
    draw = lambda what: order.uniform(self.seed, what, *who, choice)
    stage = np.searchsorted(self._upto, draw(STAGE), side="right")
    stage = self._stages[stage]
    units = self.units[clip][:, None]
    unit = np.broadcast_to(units - 1, stage.shape)
    if self.flow.history != "none":
      unit = (draw(UNIT) * units).astype(np.int64)
    drop = draw(DROP) < self.config.drop_prompt
    latent = self.tokens[unit, stage] * self.coarsest[clip][:, None]
    drawn = order.uniform(self.seed, CAPTION, source, epoch, sample)
    caption = (drawn * self._captions[clip]).astype(np.int64)
    text = self.text[clip, caption][:, None]
    text = np.where(drop, self.null_text, text).sum(1)
    return Samples(
      source, epoch, sample, unit, stage, drop, latent.sum(1), text, caption
    )

  def check_fit(self) -> None:
    """Raises ConfigError if a sample could exceed a row by itself."""
    config, k = self.config, self.config.segments_per_clip
    drawn = np.repeat(
      [s.weight > 0 for s in config.sources], self.mixture.sizes
    )
    most = np.maximum.accumulate(self.tokens[:, self._stages].max(1))
    latent = most[self.units - 1] * self.coarsest * k * drawn
    text = np.maximum(self.text.max(1), self.null_text) * k * drawn
    long, wordy = int(latent.argmax()), int(text.argmax())
    times = f", {k} segments together" if k > 1 else ""
    if latent[long] > config.latent_tokens:
      raise ConfigError(
        f"{self._name(long)} needs up to {latent[long]} latent tokens (unit "
        f"{self.units[long] - 1}{times}); a row has {config.latent_tokens}. "
        f"Raise config.latents.latent_tokens to {latent[long]}, or lower "
        "max_units (of config.latents or the period) or segments_per_clip."
      )
    if text[wordy] > config.text_tokens:
      raise ConfigError(
        f"{self._name(wordy)} needs up to {text[wordy]} text tokens{times}; a "
        f"row has {config.text_tokens}. Raise config.latents.text_tokens to "
        f"{text[wordy]}, or lower segments_per_clip."
      )
    if k > config.segments:
      raise ConfigError(
        f"config.latents.segments_per_clip is {k}; a row has "
        f"{config.segments} segments. Raise config.latents.segments."
      )

  def _name(self, clip: int) -> str:
    source = int(np.searchsorted(self._first, clip, side="right")) - 1
    return f"Clip {clip - self._first[source]} of source {source}"


def _texts(lengths: Sequence[Lengths]) -> np.ndarray:
  """Text tokens [clips, captions] of all sources, 0 where there is none."""
  texts = [x.text.reshape(len(x.frames), -1) for x in lengths]
  most = max(text.shape[1] for text in texts)
  return np.concatenate(
    [np.pad(text, ((0, 0), (0, most - text.shape[1]))) for text in texts]
  ).astype(np.int64)


def unit_tokens(units: int, flow: FlowConfig) -> np.ndarray:
  """[units, K] tokens of a segment; 1 is a frame of the coarsest level."""
  full = 4 ** (flow.stages - 1)
  return np.array(
    [
      [
        history.token_count(segment_clips(unit, stage, flow), full, flow.stages)
        for stage in range(flow.stages)
      ]
      for unit in range(units)
    ]
  )


def segment_clips(
  unit: int, stage: int, flow: FlowConfig
) -> tuple[history.Clip, ...]:
  """The clips of a segment: history and target of a unit at a stage.

  Without history (history="none") the unit stands for all frames up to its
  end, and every one is a target.
  """
  if flow.history == "none":
    frames = history.unit_frames(unit, flow.frames_per_unit)[1]
    return history.full_sequence(frames, stage)
  return history.clips(unit, stage, flow.frames_per_unit)


def _check(config: LatentDataConfig, stages: int) -> None:
  weights = config.stage_weights or (1.0,) * stages
  if len(weights) != stages or min(weights) < 0 or sum(weights) <= 0:
    raise ConfigError(
      f"config.latents.stage_weights is {weights}; give {stages} weights "
      "(config.flow.stages), none negative and not all 0."
    )
  for name, least in (
    ("segments_per_clip", 1),
    ("window", 1),
    ("max_units", 0),
  ):
    if getattr(config, name) < least:
      raise ConfigError(
        f"config.latents.{name} is {getattr(config, name)}; the least is "
        f"{least}."
      )
  if not 0 <= config.drop_prompt <= 1:
    raise ConfigError(
      f"config.latents.drop_prompt is {config.drop_prompt}; it is a share from "
      "0 to 1."
    )


def _check_sizes(source: int, sizes: Lengths, stages: int, patch: int) -> None:
  multiple = patch << stages - 1
  for name in ("height", "width"):
    values = getattr(sizes, name)
    bad = np.flatnonzero(values % multiple)
    if len(bad):
      size = values[bad[0]]
      raise ConfigError(
        f"Clip {bad[0]} of source {source} has latent {name} {size}, not a "
        f"multiple of {multiple} (2^({stages}-1) x patch {patch}). Encode at a "
        f"size whose latent has one; nearest: "
        f"{max(round(size / multiple), 1) * multiple}."
      )
