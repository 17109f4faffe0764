"""What `pyramid-score` tells of benchmark results and folders of clips."""

import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

from pyramid_jax.evals import evalcrafter, results, vbench

Path = str | os.PathLike


class Scored(NamedTuple):
  """A score, or several.

  Attributes:
    text: for people.
    values: for a file.
    whole: whether nothing is missing.
    part: whether at least all of a part is there.
  """

  text: str
  values: dict[str, Any]
  whole: bool = True
  part: bool = False


def clips(folder: Path) -> Scored:
  """What keeps a benchmark from being run on its clips."""
  found = results.check_clips(folder)
  return Scored(
    str(found),
    {**dataclasses.asdict(found), "full": found.full},
    found.complete and found.full,
    part=found.complete,
  )


def of_vbench(path: Path) -> Scored:
  """VBench's three scores; what measures the dimensions that are missing."""
  raw = results.read_vbench(path)
  found = vbench.scores(raw)
  text = f"{vbench.table(raw)}\n{found}"
  return Scored(text, dataclasses.asdict(found), not found.missing)


def of_evalcrafter(path: Path) -> Scored:
  """EvalCrafter's four scores of seventeen metrics, and their sum."""
  found = evalcrafter.scores(results.read_evalcrafter(path))
  lines = [f"{name:<12}{value:.2f}" for name, value in found.items()]
  return Scored("\n".join(lines), found)


def flicker(folder: Path) -> Scored:
  """VBench's temporal flickering; the values are like its result files."""
  found = results.measure_flickering(folder)
  ((name, (mean, each)),) = found.items()
  text = (
    f"{name} of {len(each)} clips: {100 * mean:.2f}\n"
    "It counts for clips that stand still: VBench's static_filter.py, with\n"
    "RAFT (raft-things.pth), chooses them among 25 of each prompt."
  )
  return Scored(text, found)


def of_distance(found) -> Scored:
  """A `distance.Distance`."""
  return Scored(str(found), dataclasses.asdict(found))


# What needs nothing but a folder or a file.
KINDS = {
  "clips": clips,
  "vbench": of_vbench,
  "evalcrafter": of_evalcrafter,
  "flicker": flicker,
}


def write_values(path: Path, values: dict[str, Any]) -> None:
  """Writes beside, then renames."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(json.dumps(values, indent=1) + "\n")
  beside.replace(path)
