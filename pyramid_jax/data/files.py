"""Which files to read: a folder, a manifest or one file; and those left out."""

import codecs
import dataclasses
import errno
import json
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyramid_jax.config import ConfigError, UserError

VIDEO_ENDINGS = (".mp4", ".webm", ".mov", ".mkv", ".m4v", ".avi")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
EXAMPLE = '{"video": "cat.mp4", "text": "a cat"}'
# What any file gives while a file server is away, or this process has too many
# files or too little memory. EIO is not here: it may be one damaged sector.
NOT_OF_ONE_FILE = {
  errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN,
  errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
  """A file and its captions.

  Attributes:
    id: unique in its folder or manifest, the same on every machine.
    folder: what `file` is relative to.
    file: where it lies.
    captions: one or more.
    kind: "video" or "image".
    sha256: of the file, or empty: not known.
  """

  id: str
  folder: str
  file: str
  captions: tuple[str, ...]
  kind: str
  sha256: str = ""

  @property
  def path(self) -> pathlib.Path:
    """Where it lies."""
    return pathlib.Path(self.folder, self.file)


class LeftOut(NamedTuple):
  """What is no input, or a line of a manifest, and why."""

  where: str
  reason: str


class Listing(NamedTuple):
  """What was found; `left_out` is what looks like an input and is none."""

  items: list[Item]
  left_out: list[LeftOut]


def require_of_one_file(error: BaseException) -> None:
  """Refuses to leave a file out for an error that any other would give as well.

  Raises:
    UserError: the file server, memory or the number of open files is to blame.
  """
  memory = isinstance(error, MemoryError)
  if not memory and getattr(error, "errno", None) not in NOT_OF_ONE_FILE:
    return
  name = getattr(error, "filename", None)
  what = getattr(error, "strerror", None) or f"out of memory ({error})"
  raise UserError(
    f"{f'{name}: ' if name else ''}{what}. Any file would give this error, so "
    "none is left out for it. See to the file server, the memory or the limit "
    "of open files (ulimit -n), then run the same command again; "
    "what it finished is kept."
  ) from error


def find_files(path: str | pathlib.Path) -> Listing:
  """Lists a folder (with all below it), a JSON-lines manifest or one file.

  In a folder the captions are the lines of the text file beside (`cat.txt` for
  `cat.mp4`), or else the file name. A line of a manifest is {"video" or
  "image": path, "text": caption or list of captions}, the path relative to the
  manifest; with "sha256", the file's hash in hexadecimal, any change of the
  file is noticed. A line or a file that cannot be used is left out and named;
  docs/inputs.md has the table.

  Raises:
    ConfigError: nothing there that can be used.
    UserError: see `require_of_one_file`.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise ConfigError(
      f"{path} does not exist; give a folder of videos or images, or a "
      "JSON-lines manifest."
    )
  if path.is_dir():
    listing = _collect(_folder(path))
    if not listing.items and not listing.left_out:
      endings = " ".join(VIDEO_ENDINGS + IMAGE_ENDINGS)
      raise ConfigError(f"{path} has no videos or images ({endings}).")
  elif kind_of(path.name):
    listing = _collect([_file(str(path.parent), path.name)])
  else:
    listing = _collect(_manifest(path))
    if not listing.items and not listing.left_out:
      raise ConfigError(f"{path} lists no files.")
  if not listing.items:
    where, reason = listing.left_out[0]
    raise ConfigError(
      f"{path} names {len(listing.left_out)} inputs of which none can be used; "
      f"the first: {where}: {reason}"
    )
  return listing


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


def _collect(found: Iterable[Item | LeftOut]) -> Listing:
  """Sorts out what is left out; ids become unique by numbers."""
  listing, seen = Listing([], []), set()
  for number, one in enumerate(found, 1):
    if isinstance(one, LeftOut):
      listing.left_out.append(one)
      continue
    while one.id in seen:  # one file under several captions
      one = dataclasses.replace(one, id=f"{one.id}#{number}")
    seen.add(one.id)
    listing.items.append(one)
  return listing


def kind_of(name: str) -> str | None:
  """ "video" or "image" by a file's name; None of any other."""
  ending = os.path.splitext(name)[1].lower()
  if ending in VIDEO_ENDINGS:
    return "video"
  return "image" if ending in IMAGE_ENDINGS else None


def _folder(path: pathlib.Path) -> Iterator[Item | LeftOut]:
  """What lies in a folder and below, sorted; links to folders are not followed.

  Hidden files, and what has other endings, are no inputs.
  """
  root, found = str(path), []
  unread: list[LeftOut] = []

  def note(error: OSError):
    require_of_one_file(error)
    name = os.path.relpath(error.filename, root)
    unread.append(LeftOut(printable(name), f"{error.strerror}, a folder"))

  for folder, subfolders, files in os.walk(root, onerror=note):
    inside = os.path.relpath(folder, root)
    inside = "" if inside == "." else f"{inside}/"
    for name in subfolders:
      if os.path.islink(os.path.join(folder, name)):
        unread.append(
          LeftOut(
            printable(inside + name), "a link to a folder; name that folder"
          )
        )
      elif kind_of(name):
        unread.append(LeftOut(printable(inside + name), "a folder, no file"))
    found += [
      inside + name
      for name in files
      if kind_of(name) and not name.startswith(".")
    ]
  yield from sorted(unread)
  for name in sorted(found):
    yield _file(root, name)


def _file(folder: str, name: str) -> Item | LeftOut:
  """A file of a folder with the captions beside it."""
  path = os.path.join(folder, name)
  if printable(name) != name:
    return LeftOut(printable(name), "its name is no UTF-8; rename it")
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      return LeftOut(name, "no file")
  except OSError as error:
    require_of_one_file(error)
    broken = "a link to nothing" if os.path.islink(path) else error.strerror
    return LeftOut(name, broken)
  stem = os.path.splitext(path)[0]
  try:
    with open(f"{stem}.txt", "rb") as file:
      lines = file.read().decode("utf-8-sig").splitlines()
  except FileNotFoundError:
    words = os.path.basename(stem).replace("_", " ").replace("-", " ")
    lines = [words]
  except UnicodeDecodeError as error:
    return LeftOut(name, f"its .txt is no UTF-8 (byte {error.start})")
  except OSError as error:
    require_of_one_file(error)
    return LeftOut(name, f"its .txt cannot be read ({error.strerror})")
  captions = [" ".join(line.split()) for line in lines]
  captions = tuple(filter(None, captions)) or ("",)
  return Item(name, folder, name, captions, kind_of(name))


def _manifest(path: pathlib.Path) -> Iterator[Item | LeftOut]:
  """The lines of a manifest, one by one; blank ones count but say nothing."""
  folder, name = str(path.parent), path.name
  with path.open("rb") as lines:
    for number, line in enumerate(lines, 1):
      line = line.strip()
      if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
      if line:
        yield _manifest_line(f"{name}:{number}", line, folder)


def _manifest_line(where: str, line: bytes, folder: str) -> Item | LeftOut:
  try:
    entry = json.loads(line.decode())
  except UnicodeDecodeError as error:
    return LeftOut(where, f"no UTF-8 (byte {error.start})")
  except ValueError as error:
    reason = getattr(error, "msg", str(error))
    return LeftOut(where, f"not JSON ({reason}); a line looks like {EXAMPLE}")
  kinds = [
    k for k in ("video", "image") if isinstance(entry, dict) and k in entry
  ]
  if len(kinds) != 1 or "text" not in entry:
    return LeftOut(
      where, f'needs "text" and either "video" or "image", as in {EXAMPLE}'
    )
  file, text, sha256 = entry[kinds[0]], entry["text"], entry.get("sha256", "")
  captions = text if isinstance(text, list) and text else [text]
  strings = [file, sha256, *captions]
  if not (file and all(isinstance(x, str) for x in strings)):
    return LeftOut(
      where, f"path, text and sha256 must be strings, as in {EXAMPLE}"
    )
  text = "".join(strings)
  if printable(text) != text or "\0" in text:
    return LeftOut(where, "a character that no text has")
  return Item(file, folder, file, tuple(captions), kinds[0], sha256)


def printable(name: str) -> str:
  """A name with what is no UTF-8 written out."""
  return name.encode("utf-8", "backslashreplace").decode()
