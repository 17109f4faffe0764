"""What is measured, kept in a file that several commands may add to at once.

A number that there is none of, such as a rate of nothing, is NaN here and null
in the file.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any


def load(path: pathlib.Path) -> dict[str, Any]:
  """What a file of JSON holds; empty where there is no file yet."""
  if not path.exists():
    return {}
  return _missing_as(math.nan, json.loads(path.read_text()))


def add(path: pathlib.Path, key: str, record: dict) -> None:
  """Adds a record to what is there by now; writes beside, then renames."""
  with locked(path.parent):
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text({**load(path), key: record}))
    beside.replace(path)


def text(kept: dict[str, Any]) -> str:
  """JSON that any reader takes."""
  plain = _missing_as(None, kept)
  return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def _missing_as(this: float | None, value: Any) -> Any:
  """A tree of JSON in which what is None or not finite is `this`."""
  if isinstance(value, dict):
    return {k: _missing_as(this, x) for k, x in value.items()}
  if isinstance(value, list | tuple):
    return [_missing_as(this, x) for x in value]
  number = isinstance(value, float)
  missing = value is None or (number and not math.isfinite(value))
  return this if missing else value


@contextlib.contextmanager
def locked(folder: pathlib.Path, wait: bool = True) -> Iterator[bool]:
  """Has a folder to itself, at most while it lives; False if another has it."""
  folder.mkdir(parents=True, exist_ok=True)
  opened = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    ours = True
  except BlockingIOError:
    ours = False
  try:
    yield ours
  finally:
    os.close(opened)
