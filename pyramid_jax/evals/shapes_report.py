"""Scored clips as a table to read, a file to compute with, a sheet to see."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyramid_jax.evals.shapes_score import ATTRIBUTES, Rate, summary
from pyramid_jax.generate import export


def write_results(
  folder: pathlib.Path, settings: dict[str, Any], records: Sequence[dict]
) -> str:
  """Writes results.json and results.md; gives the table back."""
  found = summary(records)
  results = {"settings": settings, "summary": found, "clips": list(records)}
  write_text(folder / "results.json", json.dumps(_json(results), indent=1))
  table = markdown(found, len(records))
  write_text(folder / "results.md", table + "\n")
  return table


def write_text(path: pathlib.Path, text: str):
  """A file that is whole or absent."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(text)
  os.replace(beside, path)


def _json(value: Any) -> Any:
  """As JSON can hold it, which has no NaN: None where nothing is known."""
  if isinstance(value, Rate):
    low, high = value.interval
    return {**dataclasses.asdict(value), "low": low, "high": high}
  if isinstance(value, dict):
    return {k: _json(x) for k, x in value.items()}
  if isinstance(value, list | tuple):
    return [_json(x) for x in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def markdown(found: dict[str, Any], n: int) -> str:
  """The summary as tables."""
  lines = [f"| {n} clips | rate (95% interval) |", "|---|---|"]
  first, given = found["windows"][0], found["given kept"]
  rates = {**found["attributes"], "all correct": found["all correct"],
           "all correct throughout": found["all correct throughout"],
           "all but motion": first["kept"],
           **({"given objects kept": given} if given.n else {}),
           "something unasked": found["unasked"]}  # fmt: skip
  lines += [f"| {name} | {rate} |" for name, rate in rates.items()]
  lines += ["", "| all correct by | clips | rate (95% interval) |",
            "|---|---|---|"]  # fmt: skip
  lines += [
    f"| {kind} | {rate.n} | {rate} |" for kind, rate in found["classes"].items()
  ]
  lines += ["", "| mean over clips | grey levels of 255 |", "|---|---|"]
  lines += [f"| {name} | {found[name]:.2f} |" for name in
            ("flicker", "color drift")]  # fmt: skip
  if given.n:
    lines += [f"| color change from given | {first['color change']:.2f} |"]
  lines += [f"| shape drift, of 1 | {found['shape drift']:.3f} |"]
  if given.n:
    lines += [
      f"| shape change from given, of 1 | {first['shape change']:.3f} |"
    ]
  if len(found["windows"]) > 1:
    lines += ["", "A clip counts in a window if its objects, moving as asked, "
              "would be whole in the frame for half of it.", "",
              "| window | clips | all but motion | of those right in the first "
              "| all correct | color change | shape change, of 1 |",
              "|---" * 7 + "|"]  # fmt: skip
    for i, w in enumerate(found["windows"], 1):
      kept = w["kept"]
      lines.append(
        f"| {i} | {kept.n} | {kept} | {w['still']} | {w['all correct']} "
        f"| {w['color change']:.1f} | {w['shape change']:.3f} |"
      )
  return "\n".join(lines)


def short(rate: Rate) -> str:
  """A rate and its interval, rounded once, as documents have them."""
  if not rate.n:
    return "-"
  low, high = (f"{100 * x:.0f}" for x in rate.interval)
  return f"{rate.hits / rate.n:.1%} ({low} to {high})"


def rate_of(stored: Mapping[str, Any]) -> Rate:
  """A rate of results.json."""
  return Rate(stored["hits"], stored["n"])


def side_by_side(found: Mapping[str, Mapping[str, Any]]) -> str:
  """Sets of clips as columns of a table.

  Args:
    found: by name, the summary of each as results.json has it.
  """
  rates = {name: _rows(summary) for name, summary in found.items()}
  heads = [
    f"{rate_of(summary['all correct']).n} {name}"
    for name, summary in found.items()
  ]
  lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
  for row in dict.fromkeys(row for rows in rates.values() for row in rows):
    cells = [short(rows.get(row, Rate(0, 0))) for rows in rates.values()]
    lines.append(f"| {row} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _rows(summary: Mapping[str, Any]) -> dict[str, Rate]:
  """What `side_by_side` has of a summary."""
  pairs = {"seen pairs": [], "unseen pairs": []}
  for name, rate in summary["classes"].items():
    kind, _, value = name.partition(": ")
    if kind == "combination":
      unseen = value.startswith("unseen")
      pairs["unseen pairs" if unseen else "seen pairs"].append(rate_of(rate))
  whole = ("all correct", "all correct throughout")
  return {
    **{name: rate_of(x) for name, x in summary["attributes"].items()},
    **{name: rate_of(summary[name]) for name in whole},
    **{
      f"all correct, {name}": Rate(
        sum(rate.hits for rate in rates), sum(rate.n for rate in rates)
      )
      for name, rates in pairs.items()
    },
  }


def write_sheet(
  path: pathlib.Path,
  records: Sequence[dict[str, Any]],
  clips: Sequence[np.ndarray],
):
  """A contact sheet; each caption says what was read in another way."""
  captions = [f"{verdict(record)}   {record['prompt']}" for record in records]
  export.contact_sheet(path, captions, [("", clips)], shown=9)


def verdict(record: dict[str, Any]) -> str:
  """Hit, or what was read where something else was asked."""
  missed = [a for a in ATTRIBUTES if not record["hits"].get(a, True)]
  if not missed:
    return "HIT" if record["lasts"] else "HIT, for most of it"
  reading = record["read"][0]
  said = []
  for name in missed:
    if name in ("background", "count"):
      values = [reading[name]]
    else:
      values = [thing[name] for thing in reading["things"]]
    words = "/".join("?" if v is None else str(v) for v in values) or "?"
    said.append(f"{name} {words}")
  return f"MISS ({', '.join(said)})"


def choose(records: Sequence[dict[str, Any]], most: int = 8) -> list[int]:
  """Hits and misses in equal parts where there are enough, in order."""
  hits = [i for i, r in enumerate(records) if r["all_correct"]]
  misses = [i for i, r in enumerate(records) if not r["all_correct"]]
  half = most // 2
  shown = hits[: max(half, most - len(misses))]
  return shown + misses[: most - len(shown)]
