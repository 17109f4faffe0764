"""What benchmarks wrote, read back; and whether their clips are all there."""

import ast
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from pyramid_jax.config import ConfigError
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.evals import features, vbench
from pyramid_jax.generate import benchmark

Path = str | os.PathLike


def read_vbench(path: Path) -> dict[str, float]:
  """VBench's raw values by dimension, as fractions.

  Args:
    path: a JSON file, or a folder with any number of them, that says
      {dimension: value} or, as VBench's *_eval_results.json, {dimension:
      [value, [one for each clip]]}; as fractions, or all in percent.

  Raises:
    ConfigError: no results, a file that is not whole, an unknown dimension, two
      values of one, or fractions among percents.
  """
  path = pathlib.Path(path)
  files = sorted(path.glob("*.json")) if path.is_dir() else [path]
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
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise ConfigError(f"{path}: {key} is {value!r}, not a number.")
    values[vbench.check_dimension(key)] = float(value)
  if max(values.values(), default=0) <= 1:
    return values
  if low := [f"{k} {v:g}" for k, v in values.items() if 0 < v <= 1]:
    raise ConfigError(
      f"{path} mixes percents and fractions ({', '.join(low)}); give fractions."
    )
  return {name: value / 100 for name, value in values.items()}


def measure_flickering(folder: Path) -> dict[str, list]:
  """VBench's temporal flickering of a folder, as its result files have it.

  Raises:
    ConfigError: no videos, or one that cannot be read.
  """
  each = [
    {
      "video_path": str(item.path),
      "video_results": vbench.temporal_flickering(features.read(item)),
    }
    for item in features.list_items(folder, "video")
  ]
  mean = sum(clip["video_results"] for clip in each) / len(each)
  return {vbench.FLICKERING: [mean, each]}


def read_evalcrafter(path: Path) -> dict[str, float]:
  """EvalCrafter's metrics as it prints them.

  Args:
    path: its final_result.txt, a JSON file {metric: value} in the same units,
      or a folder with the former.

  Raises:
    ConfigError: no such file, or no metrics in it.
  """
  path = pathlib.Path(path)
  path = path / "final_result.txt" if path.is_dir() else path
  if path.suffix == ".json":
    content = _read_json(path)
  else:
    if not path.is_file():
      raise ConfigError(
        f"{path} is missing; EvalCrafter's eval_from_metrics.py writes it."
      )
    printed = re.search(r"Metrics: ({.*?})", path.read_text())
    if not printed:
      raise ConfigError(f'{path} has no line "Metrics: {{...}}".')
    content = ast.literal_eval(printed[1].replace("nan", "None"))
  if not isinstance(content, dict) or None in content.values():
    raise ConfigError(f"{path}: every metric must be a number.")
  return {name: float(value) for name, value in content.items()}


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise ConfigError(f"{path} does not exist.") from None
  except ValueError as error:
    raise ConfigError(
      f"{path} is not whole JSON ({error}); let it be written again."
    ) from error


@dataclasses.dataclass(frozen=True)
class Check:
  """Whether a folder holds the clips that its manifest lists.

  Attributes:
    clips: how many it lists.
    missing: names of those that are not there.
    wrong: (name, why) of those that are damaged or otherwise made.
    foreign: files in its folders that it does not list.
  """

  clips: int
  missing: list[str]
  wrong: list[tuple[str, str]]
  foreign: list[str]

  def __str__(self) -> str:
    there = self.clips - len(self.missing) - len(self.wrong)
    return "\n".join(
      [
        *(f"missing  {name}" for name in self.missing),
        *(f"wrong    {name}: {why}" for name, why in self.wrong),
        *(f"foreign  {name}" for name in self.foreign),
        f"{there} of {self.clips} clips",
      ]
    )

  @property
  def complete(self) -> bool:
    """Whether the benchmark can be run."""
    return not (self.missing or self.wrong or self.foreign)


def check_clips(folder: Path) -> Check:
  """Looks for each clip of a folder of `pyramid-generate --benchmark`.

  Raises:
    ConfigError: its manifest is missing or not whole.
  """
  made, beside = benchmark.read_manifest(folder), pathlib.Path(folder).parent
  files = [clip["file"] for clip in made["clips"]]
  missing = [name for name in files if not (beside / name).is_file()]
  wanted = tuple(made[k] for k in ("fps", "frames", "height", "width"))
  wrong = []
  for name in set(files) - set(missing):
    try:
      found = features.format_of(beside / name)
    except BadVideo as error:
      wrong.append((name, f"damaged: {error}"))
      continue
    if dataclasses.astuple(found) != wanted:
      wrong.append((name, f"{found}, not {type(found)(*wanted)}"))
  folders = {pathlib.Path(folder), *((beside / name).parent for name in files)}
  known = {beside / name for name in files}
  there = (file for d in folders if d.is_dir() for file in d.iterdir())
  foreign = sorted(str(file) for file in there if file not in known)
  return Check(len(files), missing, sorted(wrong), foreign)
