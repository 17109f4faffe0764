"""What is measured, kept in a file that several commands may add to at once."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator


def load(path: pathlib.Path) -> dict[str, dict]:
  """Case to record; empty where there is no file yet."""
  return json.loads(path.read_text()) if path.exists() else {}


def add(path: pathlib.Path, key: str, record: dict) -> None:
  """Adds a record to what is there by now; writes beside, then renames."""
  with locked(path.parent):
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps({**load(path), key: record}, indent=1) + "\n")
    beside.replace(path)


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
