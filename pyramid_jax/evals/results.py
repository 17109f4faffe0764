"""What benchmarks wrote, read back; and whether their clips are all there."""

import ast
import collections
import dataclasses
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from pyramid_jax.config import ConfigError
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.data.files import Item
from pyramid_jax.evals import features, vbench
from pyramid_jax.generate import benchmark, export

Path = str | os.PathLike
AGAIN = "run the same pyramid-generate again"


def read_vbench(path: Path) -> dict[str, float]:
  """VBench's raw values by dimension, as fractions.

  Args:
    path: a JSON file, or a folder with any number of them, that says
      {dimension: value} or, as VBench's *_eval_results.json, {dimension:
      [value, [one for each clip]]}; as fractions, or all in percent.

  Raises:
    ConfigError: no results, a file that is not whole, an unknown dimension, a
      value that is no finite number, two of one, or fractions among percents.
  """
  path = pathlib.Path(path)
  files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
  found: dict[str, tuple[float, pathlib.Path]] = {}
  for file in files:
    content = _read_json(file)
    if not isinstance(content, dict):
      continue  # VBench's *_full_info.json is a list of clips
    for name, value in _fractions(file, content).items():
      if name in found and found[name][0] != value:
        raise ConfigError(
          f"{name} is {found[name][0]:g} in {found[name][1]} and {value:g} in "
          f"{file}; keep one of them."
        )
      found[name] = (value, file)
  if not found:
    raise ConfigError(
      f"{path} has no results of VBench; run its evaluate.py first, which "
      "writes *_eval_results.json."
    )
  return {name: value for name, (value, _) in found.items()}


def _fractions(path: pathlib.Path, content: dict[str, Any]) -> dict[str, float]:
  """One file's values by dimension, as fractions."""
  values = {}
  for key, value in content.items():
    value = value[0] if isinstance(value, list) and value else value
    try:
      name = benchmark.check_dimension(key)
    except ConfigError as error:
      raise ConfigError(f"{path}: {error}") from error
    if name in values:
      raise ConfigError(f"{path} has {name} twice; keep one of them.")
    values[name] = _number(path, key, value)
  if max(values.values(), default=0) <= 1:
    return values
  if low := [f"{k} {v:g}" for k, v in values.items() if 0 < v <= 1]:
    raise ConfigError(
      f"{path} mixes percents and fractions ({', '.join(low)}); give fractions."
    )
  return {name: value / 100 for name, value in values.items()}


def _number(path: pathlib.Path, name: str, value: Any) -> float:
  """A value of a result file, which must be finite."""
  known = isinstance(value, int | float) and not isinstance(value, bool)
  # no NaN compares so, and some of JSON's integers are beyond a float
  if not (known and abs(value) <= sys.float_info.max):
    raise ConfigError(f"{path}: {name} is {value!r}, not a finite number.")
  return float(value)


def measure_flickering(folder: Path) -> dict[str, list]:
  """VBench's temporal flickering of a folder, as its result files have it.

  Where the manifest of `pyramid-generate --benchmark` lies beside the folder,
  only the prompts of temporal flickering count, which have 25 samples.

  Raises:
    ConfigError: no videos, one that cannot be read or has one frame, or some of
      another rate or length than the first.
  """
  each, first = [], None
  for item in _flickering_items(folder):
    found = features.read(item, export.format_of)
    first = first or found
    if (found.fps, found.frames) != (first.fps, first.frames):
      raise ConfigError(
        f"{item.path} has {found}, the first clip {first}; only clips of one "
        "rate and length are averaged."
      )
    try:
      value = vbench.temporal_flickering(features.read(item))
    except ConfigError as error:
      raise ConfigError(f"{item.path}: {error}") from error
    each.append({"video_path": str(item.path), "video_results": value})
  mean = sum(clip["video_results"] for clip in each) / len(each)
  return {vbench.FLICKERING: [mean, each]}


def _flickering_items(folder: Path) -> list[Item]:
  """The videos of a folder that are of temporal flickering, as far as known."""
  items = features.list_items(folder, "video")
  if not benchmark.manifest_path(folder).exists():
    return items
  made = benchmark.read_manifest(folder)
  samples = collections.Counter(clip["prompt"] for clip in made["clips"])
  wanted = [
    clip["file"]
    for clip in made["clips"]
    if samples[clip["prompt"]] == benchmark.STATIC_SAMPLES
  ]
  if not wanted:
    raise ConfigError(
      f"{benchmark.manifest_path(folder)} has no prompt with "
      f"{benchmark.STATIC_SAMPLES} samples; those of temporal flickering have."
    )
  found = _places(folder, wanted)
  _require(folder, found)
  return [item for item in items if _absolute(item.path) in found.values()]


def require_whole(folder: Path) -> None:
  """Refuses a folder that lacks clips that the manifest beside it lists.

  Raises:
    ConfigError: how many there are, and what makes the others.
  """
  if benchmark.manifest_path(folder).exists():
    clips = benchmark.read_manifest(folder)["clips"]
    _require(folder, _places(folder, [clip["file"] for clip in clips]))


def _require(folder: Path, found: dict[str, pathlib.Path | None]) -> None:
  missing = [file for file, path in found.items() if path is None]
  out = _absolute(folder)
  apart = [path for path in found.values() if path and path.parent != out]
  if apart and not missing:
    raise ConfigError(
      f"{apart[0]} and {len(apart) - 1} others lie apart from those in {out}; "
      "move them there, on a disk that tells names apart that differ in case."
    )
  if missing:
    raise ConfigError(
      f"{len(found) - len(missing)} of {len(found)} clips that "
      f"{benchmark.manifest_path(folder)} lists are there; run the same "
      f"pyramid-generate again, which makes the others, such as {missing[0]}."
    )


def _places(
  folder: Path, files: Sequence[str]
) -> dict[str, pathlib.Path | None]:
  """Where each clip of a manifest is, None of those that are not there.

  One whose name the disk could not tell from another's was made in a folder of
  its own, OUT-2, from where it is moved to OUT on a disk that can.
  """
  out, beside = _absolute(folder), benchmark.manifest_path(folder).parent
  # as it is listed: that disk would also find the other one by this name
  moved = set(os.listdir(out)) if out.is_dir() else set()
  found: dict[str, pathlib.Path | None] = {}
  for file in files:
    made = beside / file
    there = out / made.name if made.name in moved else None
    found[file] = made if made.is_file() else there
  return found


def _absolute(path: Path) -> pathlib.Path:
  return pathlib.Path(os.path.abspath(path))


def read_evalcrafter(path: Path) -> dict[str, float]:
  """EvalCrafter's metrics as it prints them.

  Args:
    path: its final_result.txt, a JSON file {metric: value} in the same units,
      or a folder with the former.

  Raises:
    ConfigError: no such file, no metrics in it, or one that is no finite
      number.
  """
  path = pathlib.Path(path)
  path = path / "final_result.txt" if path.is_dir() else path
  content = _read_json(path) if path.suffix == ".json" else _read_printed(path)
  if not isinstance(content, dict):
    raise ConfigError(f"{path} must hold {{metric: value}}.")
  return {name: _number(path, name, value) for name, value in content.items()}


def _read_printed(path: pathlib.Path) -> Any:
  """What a line "Metrics: {...}" says."""
  if not path.is_file():
    raise ConfigError(
      f"{path} is missing; EvalCrafter's eval_from_metrics.py writes it."
    )
  printed = re.search("Metrics: ({.*?})", path.read_text(errors="replace"))
  if not printed:
    raise ConfigError(f'{path} has no line "Metrics: {{...}}".')
  # Python prints these without quotes, and does not read them
  quoted = re.sub(r"-?\b(nan|inf)\b", r"'\g<0>'", printed[1])
  try:
    return ast.literal_eval(quoted)
  except (ValueError, TypeError, SyntaxError) as error:
    raise ConfigError(
      f'{path}: "{printed[0]}" cannot be read; it must be {{metric: value}}.'
    ) from error


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise ConfigError(f"{path} does not exist.") from None
  except (ValueError, RecursionError) as error:
    raise ConfigError(
      f"{path} is not whole JSON ({error}); let it be written again."
    ) from error


@dataclasses.dataclass(frozen=True)
class Check:
  """Whether a folder holds the clips that its manifest lists.

  Attributes:
    benchmark: whose clips they are.
    prompts: how many it lists.
    clips: how many it lists.
    missing: names of those that are not there.
    wrong: (name, why) of those that are damaged or otherwise made.
    foreign: files in its folders that it does not list.
    apart: names of those that lie in another folder than the rest.
    frames: of a clip.
  """

  benchmark: str
  prompts: int
  clips: int
  missing: list[str]
  wrong: list[tuple[str, str]]
  foreign: list[str]
  apart: list[str]
  frames: int

  def __str__(self) -> str:
    there = self.clips - len(self.missing) - len(self.wrong)
    kind = benchmark.BENCHMARKS[self.benchmark]
    length = (
      f", of {self.frames} frames where published ones have {kind.frames}"
    )
    part = (
      f"a part: {self.prompts:,} of {kind.prompts:,} prompts, {self.clips:,} "
      f"of {kind.clips:,} clips{length if self.frames != kind.frames else ''}; "
      "--part says that it is meant"
    )
    return "\n".join(
      [
        *(f"missing  {name}" for name in self.missing),
        *(f"wrong    {name}: {why}" for name, why in self.wrong),
        *(f"foreign  {name}" for name in self.foreign),
        *(
          f"apart    {name}: one folder is read; move it there, on a disk that "
          "tells names apart that differ in case"
          for name in self.apart
        ),
        f"{there} of {self.clips} clips",
        f"{self.benchmark}: {'the full set' if self.full else part}",
      ]
    )

  @property
  def full(self) -> bool:
    """Whether as many are listed as the benchmark has, and as long."""
    kind = benchmark.BENCHMARKS[self.benchmark]
    wanted = (kind.prompts, kind.clips, kind.frames)
    return (self.prompts, self.clips, self.frames) == wanted

  @property
  def complete(self) -> bool:
    """Whether all that are listed are there, in one folder without others."""
    return not (self.missing or self.wrong or self.foreign or self.apart)


def check_clips(folder: Path) -> Check:
  """Looks for each clip of a folder of `pyramid-generate --benchmark`.

  Raises:
    ConfigError: its manifest is missing or not whole.
  """
  made = benchmark.read_manifest(folder)
  files = [clip["file"] for clip in made["clips"]]
  name, prompts = made["benchmark"], [clip["prompt"] for clip in made["clips"]]
  out, places = _absolute(folder), _places(folder, files)
  missing = [file for file, path in places.items() if path is None]
  there = {file: path for file, path in places.items() if path is not None}
  wanted = tuple(made[k] for k in ("fps", "frames", "height", "width"))
  wrong = []
  for file, path in there.items():
    try:
      found = export.format_of(path)
    except BadVideo as error:
      wrong.append((file, f"damaged: {error}; {AGAIN}"))
      continue
    if dataclasses.astuple(found) != wanted:
      why = f"{found}, not {type(found)(*wanted)}"
      wrong.append((file, f"{why}; remove it and {AGAIN}"))
  known = set(there.values())
  folders = {out, *(path.parent for path in known)}
  beside = (file for d in folders if d.is_dir() for file in d.iterdir())
  foreign = sorted(str(file) for file in beside if file not in known)
  apart = [file for file, path in there.items() if path.parent != out]
  return Check(
    name, benchmark.count_prompts(name, prompts), len(files), missing,
    sorted(wrong), foreign, apart, made["frames"],
  )  # fmt: skip
