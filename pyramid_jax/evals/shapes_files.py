"""Files of clips to readings, by several processes."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from tqdm import tqdm

from pyramid_jax.config import ConfigError
from pyramid_jax.data import shapes, video, workers
from pyramid_jax.evals.shapes_score import Seen, score
from pyramid_jax.generate import export


class Asked(Protocol):
  """What a clip should show."""

  prompt: str


def score_files(
  paths: Sequence[pathlib.Path],
  seen: Seen,
  trained: int | None,
  given: int = 0,
  questions: Sequence[Asked] | None = None,
  processes: int = 1,
) -> list[dict[str, Any]]:
  """Reads clips and compares them with their prompts; see `score`.

  The prompt of a file is in it. `trained` None is each clip's own length. The
  readings are the same whatever the number of processes.

  Raises:
    ConfigError: no clips, one that is damaged, not whole, without a prompt or
      of another rate than the dataset's, one of another prompt than its
      question's, one without a question that is shorter than the `trained`
      frames, or one that cannot be scored.
  """
  if not paths:
    raise ConfigError("there are no mp4 files to score.")
  prompts = [q.prompt for q in questions] if questions else [None] * len(paths)
  read = functools.partial(_read, trained, given)
  found = tqdm(
    workers.in_order(read, list(zip(paths, prompts, strict=True)), processes),
    "read",
    len(paths),
    unit="clip",
    disable=None,
  )
  return [
    {
      "clip": path.name,
      "combination": seen.combination(record["prompt"]),
      **record,
    }
    for path, record in zip(paths, found, strict=True)
  ]


def _read(
  trained: int | None, given: int, asked: tuple[pathlib.Path, str | None]
) -> dict[str, Any]:
  """Scores a file; with a prompt, it must show that one."""
  path, prompt = asked
  frames, made = export.read_mp4(path)
  if "prompt" not in made:
    raise ConfigError(
      f"{path} does not say its prompt; clips of pyramid-generate do."
    )
  if prompt is not None and made["prompt"] != prompt:
    raise ConfigError(
      f"{path} shows {made['prompt']!r}, not {prompt!r}; choose another --out."
    )
  if made.get("frames", len(frames)) != len(frames):
    raise ConfigError(
      f"{path} has {len(frames)} frames, it should have {made['frames']}; "
      "remove it and make it again."
    )
  if len(frames) > 1:
    _check_pace(path, len(frames), trained if prompt is None else None)
  try:
    return score(made["prompt"], frames, trained or len(frames), given)
  except ConfigError as error:
    raise ConfigError(f"{path}: {error}") from error


def _check_pace(path: pathlib.Path, frames: int, trained: int | None):
  """Refuses a clip in which the speeds of captions do not hold."""
  check_rate(path, video.read_format(path).fps)
  if trained and frames < trained:
    raise ConfigError(
      f"{path} has {frames} frames, fewer than the {trained} that captions of "
      f"this dataset speak of; make it again with --frames={trained}."
    )


def check_rate(what: pathlib.Path | str, fps: float):
  """Raises ConfigError for another rate than that of captions' speeds."""
  if fps != shapes.FPS:
    raise ConfigError(
      f"{what} has {fps:g} frames a second; captions name speeds at "
      f"{shapes.FPS}: make it again at that rate."
    )
