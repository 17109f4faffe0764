"""Held-out captions to clips to readings: what `pyramid-evaluate` does."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm, trange

from pyramid_jax import checkpoint
from pyramid_jax.config import ConfigError, GenerateConfig
from pyramid_jax.data import shapes
from pyramid_jax.data.shapes_store import Stored
from pyramid_jax.evals import shapes_report
from pyramid_jax.evals.shapes_files import check_rate
from pyramid_jax.evals.shapes_score import Seen, check_length, score
from pyramid_jax.generate import benchmark, clips, export
from pyramid_jax.generate.clips import Request
from pyramid_jax.generate.pipeline import Pipeline
from pyramid_jax.generate.trained_vae import TrainedVAE


@dataclasses.dataclass(frozen=True)
class Question:
  """A caption to show, and its true clip uint8 [T, H, W, 3] if there is one."""

  prompt: str
  truth: np.ndarray | None = None


class Dataset:
  """What an evaluation needs of the embedded dataset.

  Attributes:
    frames: length of its clips; its captions' speeds refer to it.
    seen: what its training split shows.

  Raises:
    ConfigError: the folder is no such dataset, or of another renderer.
  """

  def __init__(self, folder: str | pathlib.Path):
    self._heldout = Stored(folder, "heldout")
    self.settings = self._heldout.settings
    self.frames = self.settings.frames
    self.seen = Seen(Stored(folder).captions())
    if self.settings.renderer != shapes.RENDERER:
      raise ConfigError(
        f"{folder} was drawn by renderer {self.settings.renderer}, this is "
        f"{shapes.RENDERER}; write the dataset again with pyramid-shapes."
      )

  def heldout(self, count: int) -> list[Question]:
    """The first held-out clips; what is not stored is drawn as it would be."""
    return [self.question(i) for i in range(count)]

  def question(self, i: int) -> Question:
    """One held-out clip."""
    s = self.settings
    clip = self._heldout[i] if i < len(self._heldout) else shapes.render(
      i, s.seed, s.frames, s.height, s.width, "heldout", s.two_objects
    )  # fmt: skip
    return Question(clip.caption, clip.video)


def dataset_of(workdir: str | pathlib.Path) -> Dataset:
  """The dataset that a transformer's run names.

  Raises:
    ConfigError: it names none.
  """
  config, _ = checkpoint.read_meta(workdir, "dit")
  if not config.videos.path:
    raise ConfigError(
      f"the run in {workdir} names no dataset of shapes; say with --shapes "
      "which one it was trained on."
    )
  return Dataset(config.videos.path)


def read_prompts(path: str | pathlib.Path, count: int) -> list[Question]:
  """The first prompts of a text file, one a line.

  Raises:
    ConfigError: no such file, one that is no text, or a line that is no
      caption of the dataset.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ConfigError(f"--prompts={path} is neither 'heldout' nor a file.")
  lines = benchmark.read_lines(path)
  for line in lines[:count]:
    shapes.parse_caption(line)
  return [Question(line) for line in lines[:count]]


def settings_of(
  pipeline: Pipeline, options: GenerateConfig, workdir: str, **more: Any
) -> dict[str, Any]:
  """All that decides the clips: weights, sampler, and what else is given."""
  made = pipeline.metadata("", options, 0, 0)
  del made["prompt"], made["sample"]
  step = checkpoint.latest_step(workdir)
  return {**made, "workdir": str(workdir), "step": step, **more}


def begin(out: pathlib.Path, settings: dict[str, Any]):
  """Remembers what the clips of a folder are made with.

  Raises:
    ConfigError: it holds clips that were made with something else.
  """
  path = out / "settings.json"
  settings = json.loads(json.dumps(settings))
  if path.is_file():
    old = benchmark.as_begun(json.loads(path.read_text()), settings)
    changed = [
      f"{k}: {old.get(k)} -> {settings.get(k)}"
      for k in sorted(old.keys() | settings.keys())
      if old.get(k) != settings.get(k)
    ]
    if changed:
      raise ConfigError(
        f"{out} holds clips made with other settings (its -> now): "
        f"{'; '.join(changed)}. Choose another --out."
      )
  elif list_clips(out / "clips"):
    raise ConfigError(
      f"{out} holds clips without {path.name}; choose another --out."
    )
  shapes_report.write_text(path, json.dumps(settings, indent=1))


def list_clips(folder: str | pathlib.Path) -> list[pathlib.Path]:
  """The mp4 files of a folder, in order; unfinished ones begin with a dot."""
  return sorted(pathlib.Path(folder).glob("[!.]*.mp4"))


def generate_missing(
  pipeline: Pipeline,
  questions: Sequence[Question],
  folder: pathlib.Path,
  *,
  seed: int,
  batch: int,
  given: int = 0,
  **changes: Any,
) -> list[pathlib.Path]:
  """Makes the clips that a folder lacks; clip i depends on (seed, i) alone.

  With `given`, a clip goes on from as many frames of the true one.

  Raises:
    ConfigError: frames to go on from that are not there or of another size, or
      clips that could not be read.
  """
  paths = [folder / f"{i:05d}.mp4" for i in range(len(questions))]
  options = pipeline.options(**changes)
  if given:
    _check_given(questions, given, options)
  # what could not be read is not made
  for question in questions:
    check_length(question.prompt, options.frames, given)
  if options.frames > 1:
    check_rate("the model", options.fps)
  requests = [
    Request(q.prompt, path, q.truth[:given] if given else None, number=i)
    for i, (q, path) in enumerate(zip(questions, paths, strict=True))
  ]
  clips.generate_missing(
    pipeline, requests, seed=seed, batch=batch, lossless=True, **changes
  )
  return paths


def reconstruct_missing(
  vae: TrainedVAE,
  questions: Sequence[Question],
  folder: pathlib.Path,
  *,
  batch: int,
) -> list[pathlib.Path]:
  """Makes the clips that a folder lacks: true ones, encoded and decoded."""
  paths = [folder / f"{i:05d}.mp4" for i in range(len(questions))]
  lacking = set(clips.missing(paths))
  missing = [i for i, path in enumerate(paths) if path in lacking]
  bar = tqdm(total=len(missing), desc="reconstruct", unit="clip", disable=None)
  with bar:
    for start in range(0, len(missing), batch):
      part = missing[start : start + batch]
      truth = [questions[i].truth for i in part]
      frames = vae.reconstruct(truth, [paths[i].stem for i in part], batch)
      for i, clip in zip(part, frames, strict=True):
        made = {"prompt": questions[i].prompt, "frames": len(clip)}
        with export.mp4_writer(
          paths[i], shapes.FPS, made, lossless=True
        ) as append:
          append(clip)
      bar.update(len(part))
  return paths


def _check_given(questions, given, options):
  if given % 8 != 1 or given >= options.frames:
    raise ConfigError(
      f"given {given} is not 8 n + 1 below the clip's {options.frames} frames."
    )
  for q in questions:
    if q.truth is None:
      raise ConfigError(
        "prompts of a file have no true clips to go on from; use "
        "--prompts=heldout."
      )
    if q.truth.shape[1:3] != (options.height, options.width):
      raise ConfigError(
        f"the dataset has frames of {q.truth.shape[1]} x {q.truth.shape[2]}, "
        f"asked are {options.height} x {options.width}; only equal ones can "
        "be gone on from."
      )
    if len(q.truth) < given:
      raise ConfigError(
        f"given {given} is more than a clip has: {len(q.truth)}."
      )


def score_truth(
  dataset: Dataset, count: int, given: int = 0
) -> list[dict[str, Any]]:
  """Reads held-out clips as they were drawn, one at a time; see `score`.

  What is not read right here is a fault of the reading.
  """
  records = []
  for i in trange(count, desc="read", unit="clip", disable=None):
    question = dataset.question(i)
    record = score(question.prompt, question.truth, dataset.frames, given)
    combination = dataset.seen.combination(question.prompt)
    records.append({"clip": f"{i}", "combination": combination, **record})
  return records


def report(
  out: pathlib.Path,
  frames_of: Callable[[int], np.ndarray],
  settings: dict[str, Any],
  records: Sequence[dict[str, Any]],
) -> str:
  """Writes results.json, results.md and sheet.png; gives the table back.

  Args:
    out: folder.
    frames_of: the frames of clip i, uint8 [T, H, W, 3].
    settings: what the clips were made with.
    records: what was read, one a clip.
  """
  table = shapes_report.write_results(out, settings, records)
  chosen = shapes_report.choose(records)
  shapes_report.write_sheet(
    out / "sheet.png",
    [records[i] for i in chosen],
    [frames_of(i) for i in chosen],
  )
  return table
