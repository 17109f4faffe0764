"""Prompts to files: what `pyramid-generate` does."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from pyramid_jax.config import ConfigError
from pyramid_jax.flow.plan import Plan
from pyramid_jax.generate import export
from pyramid_jax.generate.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Request:
  """One clip to make.

  Attributes:
    prompt: what it shows.
    path: .mp4, .gif or .png.
    given: uint8 [T0, H, W, 3] frames to go on from.
    truth: a true clip to show beside it in a contact sheet.
    number: of the sample; its place among the requests by default.
  """

  prompt: str
  path: pathlib.Path
  given: np.ndarray | None = None
  truth: np.ndarray | None = None
  number: int | None = None


def generate_clips(
  pipeline: Pipeline,
  requests: Sequence[Request],
  *,
  seed: int = 0,
  batch: int = 8,
  later: Mapping[int, str] | None = None,
  sheet: pathlib.Path | None = None,
  lossless: bool = False,
  progress: Callable[[], None] | None = None,
  unit_done: Callable[[int], None] = lambda frames: None,
  **changes: Any,
) -> list[np.ndarray]:
  """Generates and writes clips; an mp4 grows as its frames come.

  Args:
    pipeline: of the model.
    requests: the clips; sample i draws from (seed, i).
    seed: of all draws.
    batch: clips generated together.
    later: unit -> a prompt that holds from this unit on, for every clip.
    sheet: a contact sheet to write (.png).
    lossless: whether an mp4 holds the very pixels.
    progress: called after every call of the transformer.
    unit_done: called with the number of new frames, over all clips of a batch.
    **changes: to the pipeline's options.

  Returns:
    The clips, uint8 [T, H, W, 3].

  Raises:
    ConfigError: as `Pipeline.stream`, or a file of an unknown kind.
  """
  for request in requests:
    export.check_ending(request.path)
    check_writable(request.path)
  clips: list[np.ndarray] = []
  for start in range(0, len(requests), batch):
    part = [
      r if r.number is not None else dataclasses.replace(r, number=i)
      for i, r in enumerate(requests[start : start + batch], start)
    ]
    texts = {u: [text] * len(part) for u, text in (later or {}).items()}
    clips += _batch(
      pipeline, part, seed, lossless, unit_done, later=texts, progress=progress,
      **changes,
    )  # fmt: skip
  if sheet:
    columns = [("generated", clips)]
    if any(r.truth is not None for r in requests):
      columns.insert(0, ("ground truth", [r.truth for r in requests]))
    export.contact_sheet(sheet, [r.prompt for r in requests], columns)
  return clips


def _batch(
  pipeline: Pipeline,
  part: Sequence[Request],
  seed: int,
  lossless: bool,
  unit_done: Callable[[int], None],
  *,
  later: Mapping[int, Sequence[str]],
  progress: Callable[[], None] | None,
  **changes: Any,
) -> list[np.ndarray]:
  """Generates clips together and writes them."""
  options = pipeline.options(**changes)
  given = [r.given for r in part if r.given is not None]
  if len(given) not in (0, len(part)):
    raise ConfigError(
      f"{len(given)} of {len(part)} clips of a batch have given frames; give "
      "them to all, or set the batch to 1."
    )
  frames: list[np.ndarray] = []
  with contextlib.ExitStack() as files:
    writers = []
    for i, request in enumerate(part):
      if request.path.suffix == ".mp4":
        made = pipeline.metadata(request.prompt, options, seed, request.number)
        file = export.mp4_writer(
          request.path, options.fps, made, lossless=lossless
        )
        writers.append((i, files.enter_context(file)))
    for unit in pipeline.stream(
      [r.prompt for r in part],
      seed=seed,
      first=[r.number for r in part],
      given=np.stack(given) if given else None,
      later=later,
      progress=progress,
      **changes,
    ):
      for i, append in writers:
        append(unit[i])
      frames.append(unit)
      unit_done(len(part) * unit.shape[1])
  clips = list(np.concatenate(frames, 1))
  for request, clip in zip(part, clips, strict=True):
    if request.path.suffix != ".mp4":
      export.write_clip(request.path, clip, options.fps)
  return clips


def model_calls(plan: Plan, start: Sequence[np.ndarray | None]) -> int:
  """How often a batch calls the transformer; given units are not generated."""
  first, later = sum(plan.steps), sum(plan.later_steps)
  if start[0] is None:
    return first + (plan.units - 1) * later
  return (plan.units - (len(start[0]) + 7) // 8) * later


def frame_bar(requests: Sequence[Request], frames: int, **options: Any) -> tqdm:
  """A bar of all frames, at those of the clips that are there."""
  there = sum(request.path.exists() for request in requests)
  return tqdm(
    total=len(requests) * frames, initial=there * frames, unit="frame",
    disable=None, **options,
  )  # fmt: skip


def generate_missing(
  pipeline: Pipeline, requests: Sequence[Request], *, batch: int, **options: Any
) -> int:
  """Makes the clips whose files are not there, and keeps none in memory.

  Args:
    pipeline: of the model.
    requests: the clips, each with its number.
    batch: clips generated together.
    **options: as of `generate_clips`.

  Returns:
    How many it made.
  """
  todo = [r for r in requests if not r.path.exists()]
  for start in range(0, len(todo), batch):
    part = todo[start : start + batch]
    generate_clips(pipeline, part, batch=batch, **options)
  return len(todo)


def check_writable(path: pathlib.Path):
  """Refuses a place where no file can be made, before work is done.

  Raises:
    ConfigError: names it.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = path.with_name(f".{path.name}.probe")
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
