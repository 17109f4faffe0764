"""Prompts to files: what `pyramid-generate` does."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from pyramid_jax.config import ConfigError, GenerateConfig
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.generate import export
from pyramid_jax.generate.pipeline import Pipeline
from pyramid_jax.generate.sizes import given_units

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
  """One clip to make.

  Attributes:
    prompt: what it shows.
    path: .mp4, .gif or .png.
    given: uint8 [T0, H, W, 3] frames to go on from.
    truth: a true clip to show beside it in a contact sheet.
    number: of the sample; its place among the requests by default.
    source: what `given` was read from, for the clip's metadata.
  """

  prompt: str
  path: pathlib.Path
  given: np.ndarray | None = None
  truth: np.ndarray | None = None
  number: int | None = None
  source: str = ""


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
):
  """Generates and writes clips; an mp4 grows as its frames come.

  None of them stays in memory, but for the few frames that a sheet shows.

  Args:
    pipeline: of the model.
    requests: the clips; sample i draws from (seed, i).
    seed: of all draws.
    batch: clips generated together at most; they go on from equally many
      frames.
    later: unit -> a prompt that holds from this unit on, for every clip.
    sheet: a contact sheet to write (.png).
    lossless: whether an mp4 holds the very pixels.
    progress: called after every call of the transformer.
    unit_done: called with the number of new frames, over all clips of a batch.
    **changes: to the pipeline's options.

  Raises:
    ConfigError: as `Pipeline.stream`, or a file of an unknown kind.
  """
  options = pipeline.options(**changes)
  for request in requests:
    export.check_ending(request.path)
    check_writable(request.path)
    pipeline.plan(options, request.given)
  numbered = [
    r if r.number is not None else dataclasses.replace(r, number=i)
    for i, r in enumerate(requests)
  ]
  shown = export.evenly(options.frames) if sheet else []
  clips: dict[int, np.ndarray] = {}
  for places in batches(requests, batch):
    part = [numbered[i] for i in places]
    texts = {u: [text] * len(part) for u, text in (later or {}).items()}
    kept = _batch(
      pipeline, part, seed, lossless, unit_done, shown, later=texts,
      progress=progress, **changes,
    )  # fmt: skip
    clips |= zip(places, kept, strict=True)
  if sheet:
    columns = [("generated", [clips[i] for i in range(len(requests))])]
    if any(r.truth is not None for r in requests):
      columns.insert(0, ("ground truth", [r.truth for r in requests]))
    export.contact_sheet(sheet, [r.prompt for r in requests], columns)


def batches(requests: Sequence[Request], batch: int) -> list[list[int]]:
  """Places of the requests that are generated together, `batch` at most.

  They go on from equally many frames, or all from none.
  """
  alike: dict[int, list[int]] = {}
  for i, request in enumerate(requests):
    frames = 0 if request.given is None else len(request.given)
    alike.setdefault(frames, []).append(i)
  return [
    places[start : start + batch]
    for places in alike.values()
    for start in range(0, len(places), batch)
  ]


def _batch(
  pipeline: Pipeline,
  part: Sequence[Request],
  seed: int,
  lossless: bool,
  unit_done: Callable[[int], None],
  shown: Sequence[int],
  *,
  later: Mapping[int, Sequence[str]],
  progress: Callable[[], None] | None,
  **changes: Any,
) -> list[np.ndarray]:
  """Generates clips together and writes them; gives their frames `shown`."""
  options, kept, first = pipeline.options(**changes), [], 0
  given = None if part[0].given is None else np.stack([r.given for r in part])
  with contextlib.ExitStack() as files:
    writers = []
    for request in part:
      made = pipeline.metadata(request.prompt, options, seed, request.number)
      if request.source:
        made["given"] = request.source
      file = export.clip_writer(
        request.path, options.fps, made, lossless=lossless
      )
      writers.append(files.enter_context(file))
    for unit in pipeline.stream(
      [r.prompt for r in part],
      seed=seed,
      first=[r.number for r in part],
      given=given,
      later=later,
      progress=progress,
      **changes,
    ):
      for append, frames in zip(writers, unit, strict=True):
        append(frames)
      last = first + unit.shape[1]
      kept.append(unit[:, [t - first for t in shown if first <= t < last]])
      unit_done(len(part) * unit.shape[1])
      first = last
  return list(np.concatenate(kept, 1))


def model_calls(
  pipeline: Pipeline,
  requests: Sequence[Request],
  batch: int,
  options: GenerateConfig,
) -> int:
  """How often all batches together call the transformer.

  Raises:
    ConfigError: a request that cannot be met.
  """
  calls = 0
  for places in batches(requests, batch):
    given = requests[places[0]].given
    plan = pipeline.plan(options, given)
    # those that are given are not generated
    start = given_units(given, plan, options, pipeline.vae_config)
    for unit in range(start, plan.units):
      calls += sum(plan.later_steps if unit else plan.steps)
  return calls


def is_made(path: pathlib.Path) -> bool:
  """Whether a clip is there and whole, as its packets tell."""
  if not path.exists():
    return False
  try:
    export.format_of(path)
  except BadVideo:
    return False
  return True


def missing(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """The clips that are to be made; a warning names those that are damaged."""
  result = [path for path in paths if not is_made(path)]
  for path in result:
    if path.exists():
      log.warning("%s is damaged; it is made again", path)
  return result


def generate_missing(
  pipeline: Pipeline,
  requests: Sequence[Request],
  *,
  seed: int,
  batch: int,
  lossless: bool = False,
  **changes: Any,
) -> int:
  """Makes the clips whose files are not there, or not whole.

  Args:
    pipeline: of the model.
    requests: the clips, each with its number.
    seed: of all draws.
    batch: clips generated together.
    lossless: as of `generate_clips`.
    **changes: to the pipeline's options.

  Returns:
    How many it made.
  """
  lacking = set(missing(r.path for r in requests))
  todo = [r for r in requests if r.path in lacking]
  frames = pipeline.options(**changes).frames
  bar = tqdm(
    total=len(requests) * frames,
    initial=(len(requests) - len(todo)) * frames,
    desc="generate", unit="frame", disable=None,
  )  # fmt: skip
  with bar:
    for start in range(0, len(todo), batch):
      generate_clips(
        pipeline, todo[start : start + batch], seed=seed, batch=batch,
        lossless=lossless, unit_done=bar.update, **changes,
      )  # fmt: skip
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
