"""Which files to read: a folder, a manifest or one file; and those left out."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable

from pyramid_jax.config import ConfigError

VIDEO_ENDINGS = (".mp4", ".webm", ".mov", ".mkv", ".m4v", ".avi")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True)
class Item:
  """A file and its caption.

  Attributes:
    id: unique in its folder or manifest, the same on every machine.
    path: where it lies.
    caption: one text.
    kind: "video" or "image".
    sha256: of the file, or empty: not known.
  """

  id: str
  path: pathlib.Path
  caption: str
  kind: str
  sha256: str = ""


def find_files(path: str | pathlib.Path) -> list[Item]:
  """Lists a folder (with all below it), a JSON-lines manifest or one file.

  In a folder a caption is the text file beside (`cat.txt` for `cat.mp4`) or
  the file name. A line of a manifest is {"video" or "image": path, "text":
  caption}, the path relative to the manifest; with "sha256", the file's hash in
  hexadecimal, any change of the file is noticed.

  Raises:
    ConfigError: nothing there, or a line that cannot be used.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return _folder(path)
  if not path.exists():
    raise ConfigError(
      f"{path} does not exist; give a folder of videos or images, or a "
      "JSON-lines manifest."
    )
  if _kind(path):
    return [Item(path.name, path, _caption(path), _kind(path))]
  return _manifest(path)


def write_skipped(
  path: str | pathlib.Path, skipped: Iterable[tuple[str, str]]
) -> None:
  """Writes (file, reason) pairs as JSON lines; replaces an older list."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.name}.partial")
  partial.write_text(
    "".join(
      json.dumps({"path": str(p), "reason": reason}) + "\n"
      for p, reason in skipped
    )
  )
  os.replace(partial, path)


def _kind(path: pathlib.Path) -> str | None:
  ending = path.suffix.lower()
  if ending in VIDEO_ENDINGS:
    return "video"
  return "image" if ending in IMAGE_ENDINGS else None


def _caption(path: pathlib.Path) -> str:
  beside = path.with_suffix(".txt")
  if beside.is_file():
    return " ".join(beside.read_text(encoding="utf-8").split())
  return " ".join(path.stem.replace("_", " ").replace("-", " ").split())


def _folder(path: pathlib.Path) -> list[Item]:
  found = sorted(
    (file.relative_to(path).as_posix(), file)
    for file in path.rglob("*")
    if _kind(file) and not file.name.startswith(".") and file.is_file()
  )
  if not found:
    endings = " ".join(VIDEO_ENDINGS + IMAGE_ENDINGS)
    raise ConfigError(f"{path} has no videos or images ({endings}).")
  return [Item(name, f, _caption(f), _kind(f)) for name, f in found]


def _manifest(path: pathlib.Path) -> list[Item]:
  items: dict[str, Item] = {}
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except UnicodeDecodeError as error:
    raise ConfigError(
      f"{path} is neither text nor a known kind of video or image."
    ) from error
  for number, line in enumerate(lines, 1):
    if line.strip():
      item = _manifest_line(f"{path}:{number}", line, path.parent)
      if item.id in items:  # one file under several captions
        item = dataclasses.replace(item, id=f"{item.id}#{number}")
      items[item.id] = item
  if not items:
    raise ConfigError(f"{path} lists no files.")
  return list(items.values())


def _manifest_line(where: str, line: str, folder: pathlib.Path) -> Item:
  example = '{"video": "cat.mp4", "text": "a cat"}'
  try:
    entry = json.loads(line)
  except json.JSONDecodeError as error:
    raise ConfigError(
      f"{where}: not JSON ({error.msg}); a line looks like {example}."
    ) from error
  kinds = [
    k for k in ("video", "image") if isinstance(entry, dict) and k in entry
  ]
  if len(kinds) != 1 or "text" not in entry:
    raise ConfigError(
      f'{where}: needs "text" and either "video" or "image", as in {example}.'
    )
  file, text = entry[kinds[0]], entry["text"]
  sha256 = entry.get("sha256", "")
  if not (file and all(isinstance(x, str) for x in (file, text, sha256))):
    raise ConfigError(
      f"{where}: path, text and sha256 must be strings, as in {example}."
    )
  return Item(file, folder / file, text, kinds[0], sha256)
