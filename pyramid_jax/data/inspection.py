"""A look at clips before they are encoded: a table, a contact sheet, a summary.

Every clip is read exactly as encoding would read it, so what is left out here
is what would be left out there.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import av
import numpy as np
import PIL.Image
import tqdm

from pyramid_jax.data import video
from pyramid_jax.data.damage import DECODER_ERRORS, BadVideo
from pyramid_jax.data.picture_sheet import Picture, draw_sheet
from pyramid_jax.data.sources import Clips
from pyramid_jax.data.summary import kind_of

SHOWN_CAPTION = 200  # characters of a caption in the table
HASH_SIZE = (9, 8)  # of the grey picture whose differences are hashed
NEAR_BITS, NEAR_VALUE = 10, 8  # of 64 bits, and of 255, on average


@dataclasses.dataclass
class Look:
  """A line of the table; an empty value is not known.

  Attributes:
    id: of the input.
    use: "yes", "trimmed" (loses frames at its end, 8 n + 1) or "left out".
    reason: why it is left out.
    seconds, fps, height, width, codec: of the file.
    frames, stored: as it would be stored, height x width.
    captions: how many; `characters` of the longest, `caption` is the first.
    same_as: an earlier input with the same frames, bit for bit.
    like: an earlier input whose middle frame looks the same.
  """

  id: str
  use: str
  reason: str = ""
  seconds: str = ""
  fps: str = ""
  height: str = ""
  width: str = ""
  codec: str = ""
  frames: int = 0
  stored: str = ""
  captions: int = 0
  characters: int = 0
  caption: str = ""
  same_as: str = ""
  like: str = ""


@dataclasses.dataclass(frozen=True)
class Seen:
  """What is kept of a clip's pixels."""

  middle: np.ndarray  # its middle frame, small
  frames: bytes  # a hash of all of them


def inspect_clips(
  clips: Clips, out: str | os.PathLike, shown: int = 60, threads: int = 2
) -> str:
  """Writes OUT/files.tsv and OUT/contact_sheet.png; returns a summary.

  The sheet shows `shown` of the clips, evenly over all of them, then what is
  no clip.
  """
  count, out = len(clips.ids), pathlib.Path(out)
  on_sheet = np.unique(np.linspace(0, count - 1, min(shown, count)).astype(int))
  pictures: dict[int, Picture] = {}
  looks, duplicates = [], _Duplicates()
  with (
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
    tqdm.tqdm(desc="inspect", total=count, disable=None) as bar,
  ):
    # in portions, so that few pictures wait
    for start in range(0, count, 64):
      part = range(start, min(start + 64, count))
      found = pool.map(lambda i: _look(clips, i), part)
      for i, (look, seen) in zip(part, found, strict=True):
        bar.update()
        if seen is not None:
          look.same_as, look.like = duplicates.find(look.id, seen)
        if i in on_sheet:
          pictures[i] = _picture(look, seen)
        looks.append(look)
  left_out = [Look(w, "left out", reason) for w, reason in clips.left_out]
  looks += left_out
  _write(out / "files.tsv", _table(looks).encode())
  png = io.BytesIO()
  more = [_picture(look, None) for look in left_out[:shown]]
  draw_sheet([*pictures.values(), *more]).save(png, "png")
  _write(out / "contact_sheet.png", png.getvalue())
  files = f"table: {out}/files.tsv\ncontact sheet: {out}/contact_sheet.png"
  return f"{_summary(looks)}\n{files}"


def _look(clips: Clips, i: int) -> tuple[Look, Seen | None]:
  captions = clips.captions(i)
  look = Look(
    clips.ids[i],
    "yes",
    captions=len(captions),
    characters=max(map(len, captions)),
    caption=captions[0],
    **_probe(clips.file(i)),
  )
  try:
    clip = clips.read(i)
  except BadVideo as error:
    look.use, look.reason = "left out", str(error)
    return look, None
  look.use = "trimmed" if clip.trimmed else "yes"
  look.frames, height, width, _ = clip.video.shape
  look.stored = f"{height}x{width}"
  middle = PIL.Image.fromarray(clip.video[len(clip.video) // 2])
  middle.thumbnail((160, 160))
  digest = hashlib.blake2b(clip.video.tobytes(), digest_size=16)
  digest.update(str(clip.video.shape).encode())
  return look, Seen(np.asarray(middle), digest.digest())


def _probe(path: pathlib.Path | None) -> Mapping[str, str]:
  """What the header of a file says; nothing where it cannot be read."""
  if path is None:
    return {}
  with contextlib.suppress(*DECODER_ERRORS):
    if video.is_image(path):
      with PIL.Image.open(path) as image:
        sides = {"height": str(image.height), "width": str(image.width)}
        return {**sides, "codec": str(image.format).lower()}
    with av.open(str(path.absolute()), **video.FOREIGN_TEXT) as file:
      stream = file.streams.video[0]
      length = stream.duration and float(stream.duration * stream.time_base)
      length = length or (file.duration or 0) / av.time_base
      return {
        "seconds": f"{length:.2f}",
        "fps": f"{float(stream.average_rate or 0):.3f}",
        "height": str(stream.height),
        "width": str(stream.width),
        "codec": stream.codec_context.name if stream.codec_context else "",
      }
  return {}


class _Duplicates:
  """Finds clips that were there before.

  Two pictures are alike if a quarter of their difference hashes is equal, at
  most 10 of all 64 bits differ, and their values hardly do.
  """

  def __init__(self):
    self.frames: dict[bytes, str] = {}
    self.parts = collections.defaultdict(list)

  def find(self, id: str, seen: Seen) -> tuple[str, str]:
    """(id of the same frames, id of a picture like it), of earlier ones."""
    same = self.frames.setdefault(seen.frames, id)
    small = PIL.Image.fromarray(seen.middle).resize(
      HASH_SIZE, PIL.Image.Resampling.BOX
    )
    colors = np.asarray(small, np.int16)
    gray = colors.sum(-1)
    bits = (gray[:, 1:] > gray[:, :-1]).reshape(4, 16)
    keys = [(part, x.tobytes()) for part, x in enumerate(bits)]
    like = ""
    for key in keys:
      for other, other_bits, other_colors in self.parts[key]:
        few = np.count_nonzero(bits != other_bits) <= NEAR_BITS
        if few and np.abs(colors - other_colors).mean() <= NEAR_VALUE:
          like = like or other
    if not like:  # each kind of picture is kept once
      for key in keys:
        self.parts[key].append((id, bits, colors))
    return (same if same != id else ""), like


def _picture(look: Look, seen: Seen | None) -> Picture:
  """How a clip stands on the sheet."""
  size = f"{look.frames} frames, {look.stored}"
  notes = [size] if look.frames > 1 else [f"image, {look.stored}"]
  notes += [f"same frames as {look.same_as}"] if look.same_as else []
  if look.like and look.like != look.same_as:
    notes.append(f"like {look.like}")
  if not look.caption:
    notes.append("empty caption")
  return Picture(
    None if seen is None else seen.middle,
    look.id,
    look.caption,
    look.reason or "; ".join(notes),
    marked=bool(look.reason or look.same_as or not look.caption),
  )


def _table(looks: Iterable[Look]) -> str:
  """Tab-separated, a header first."""
  names = [f.name for f in dataclasses.fields(Look)]
  lines = ["\t".join(names)]
  for look in looks:
    values = dataclasses.asdict(look)
    values["caption"] = values["caption"][:SHOWN_CAPTION]
    lines.append("\t".join(" ".join(str(values[n]).split()) for n in names))
  return "\n".join(lines) + "\n"


def _summary(looks: Sequence[Look]) -> str:
  used = [x for x in looks if x.use != "left out"]
  bad = collections.Counter(
    kind_of(x.reason) for x in looks if x.use == "left out"
  )
  videos = [x for x in used if x.frames > 1]
  lines = [
    f"{len(looks)} inputs: {len(videos)} videos and "
    f"{len(used) - len(videos)} images can be used, {bad.total()} are left out"
  ]
  lines += [f"  {n} x {why}" for why, n in bad.most_common()]
  sizes = collections.Counter(f"{x.stored} x {x.frames}" for x in used)
  lines.append("height x width x frames as stored:")
  lines += [f"  {n} x {size}" for size, n in sizes.most_common()]
  trimmed = sum(x.use == "trimmed" for x in looks)
  lines.append(f"{trimmed} lose frames at their end (8 n + 1)")
  captions = collections.Counter(x.caption for x in looks if x.captions)
  longest = max((x.characters for x in looks), default=0)
  lines.append(
    f"captions: {len(captions)} different, {captions['']} empty, the longest "
    f"has {longest} characters"
  )
  same = sum(bool(x.same_as) for x in looks)
  like = sum(bool(x.like and not x.same_as) for x in looks)
  lines.append(f"{same} have the frames of another, {like} more look like one")
  return "\n".join(lines)


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  beside.write_bytes(content)
  os.replace(beside, path)
