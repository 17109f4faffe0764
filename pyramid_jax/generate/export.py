"""Frames to files: mp4, gif, and a sheet of clips to look at.

Legend: T frames, H W pixels.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import PIL.Image
import PIL.ImageDraw
from av.video.reformatter import (
  ColorPrimaries,
  ColorRange,
  Colorspace,
  ColorTrc,
)

from pyramid_jax.config import ConfigError
from pyramid_jax.data import damage, video
from pyramid_jax.data.lettering import draw_text

SHOWN = 5  # frames of a clip in a contact sheet
LETTERS = 13  # pixels


@contextlib.contextmanager
def mp4_writer(
  path: str | os.PathLike,
  fps: float = 24.0,
  metadata: Mapping[str, Any] | None = None,
  *,
  lossless: bool = False,
) -> Iterator:
  """A function that appends frames uint8 [T, H, W, 3] to an H.264 file.

  `metadata` is kept in its comment, as JSON. A lossless file holds the very
  pixels, for measurements; VLC and FFmpeg play it, browsers do not. Any
  other is of BT.709 and says so: players would guess by its size.

  The file appears under its name when the block ends well; half-written ones
  never do. Odd sizes lose their last row or column (H.264 halves colour).
  """
  # absolute: FFmpeg takes what stands before a colon for a protocol
  path = pathlib.Path(path).absolute()
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial.mp4")
  rate = Fraction(fps).limit_denominator(1001)
  try:
    with av.open(str(beside), "w", options={"movflags": "faststart"}) as file:
      stream = None
      if metadata:
        file.metadata["comment"] = json.dumps(metadata)

      def append(frames: np.ndarray):
        nonlocal stream
        if stream is None:
          stream = _add_stream(file, rate, *frames.shape[1:3], lossless)
        for frame in frames[:, : stream.height, : stream.width]:
          file.mux(stream.encode(_picture(frame, lossless)))

      yield append
      if stream is not None:
        file.mux(stream.encode())
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def _add_stream(
  file: av.container.OutputContainer,
  rate: Fraction,
  height: int,
  width: int,
  lossless: bool,
) -> av.VideoStream:
  stream = file.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
  even = 1 if lossless else 2
  stream.height, stream.width = (n // even * even for n in (height, width))
  stream.pix_fmt = "rgb24" if lossless else "yuv420p"
  quality = {"qp": "0"} if lossless else {"crf": "16"}
  stream.options = {**quality, "preset": "medium"}
  if not lossless:
    codec = stream.codec_context
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries = ColorPrimaries.BT709
    codec.color_trc = ColorTrc.BT709
  return stream


def _picture(frame_HW3: np.ndarray, lossless: bool) -> av.VideoFrame:
  """A frame as the stream takes it; left alone, RGB becomes BT.601's YUV."""
  image = np.ascontiguousarray(frame_HW3)
  picture = av.VideoFrame.from_ndarray(image, format="rgb24")
  if lossless:
    return picture
  return picture.reformat(
    format="yuv420p",
    dst_colorspace=Colorspace.ITU709,
    dst_color_range=ColorRange.MPEG,
  )


def read_mp4(
  path: str | os.PathLike,
) -> tuple[np.ndarray, dict[str, Any]]:
  """Frames uint8 [T, H, W, 3] of a file of `mp4_writer`, and its metadata.

  Raises:
    ConfigError: it is missing, damaged or no video.
  """
  try:
    where = str(pathlib.Path(path).absolute())  # as `mp4_writer`
    with damage.bad_video(), av.open(where, options=video.STRICT) as file:
      comment = file.metadata.get("comment", "")
      frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
      metadata = json.loads(comment) if comment.startswith("{") else {}
      return np.stack(frames), metadata
  except (damage.BadVideo, IndexError) as error:
    raise ConfigError(
      f"{path} cannot be read as a video: {error}. Remove it and make it again."
    ) from error


def format_of(path: pathlib.Path) -> video.Format:
  """The format of a video, or of an image as a clip of one frame.

  Raises:
    BadVideo: a file that cannot be read.
  """
  if pathlib.Path(path).suffix.lower() in video.IMAGE_ENDINGS:
    _, height, width, _ = video.read_frames(path).shape
    return video.Format(24.0, 1, height, width)
  return video.read_format(path)


def write_gif(path: pathlib.Path, frames_THW3: np.ndarray, fps: float = 24.0):
  """A looping gif; its frames last multiples of 10 ms, so 24 fps becomes 25."""
  pictures = [PIL.Image.fromarray(f) for f in frames_THW3]
  _save(
    path, "gif", pictures[0], save_all=True, append_images=pictures[1:],
    duration=max(round(100 / fps), 2) * 10, loop=0,
  )  # fmt: skip


def write_png(path: pathlib.Path, image_HW3: np.ndarray):
  """One picture."""
  _save(path, "png", PIL.Image.fromarray(image_HW3))


def write_clip(path: str | os.PathLike, frames_THW3: np.ndarray, fps: float):
  """Writes what the ending asks for: .mp4, .gif or .png (first frame).

  Raises:
    ConfigError: another ending.
  """
  path = pathlib.Path(path)
  check_ending(path)
  if path.suffix == ".png":
    write_png(path, frames_THW3[0])
  elif path.suffix == ".gif":
    write_gif(path, frames_THW3, fps)
  else:
    with mp4_writer(path, fps) as append:
      append(frames_THW3)


@contextlib.contextmanager
def clip_writer(
  path: pathlib.Path,
  fps: float = 24.0,
  metadata: Mapping[str, Any] | None = None,
  *,
  lossless: bool = False,
) -> Iterator[Callable[[np.ndarray], None]]:
  """`mp4_writer`, or the same for another ending of `write_clip`.

  Those files are made of all frames, which are kept until the block ends.
  """
  if path.suffix == ".mp4":
    with mp4_writer(path, fps, metadata, lossless=lossless) as append:
      yield append
    return
  frames: list[np.ndarray] = []
  yield frames.append
  write_clip(path, np.concatenate(frames), fps)


def check_ending(path: str | os.PathLike):
  """Refuses a file that `write_clip` cannot write, before work is done."""
  if pathlib.Path(path).suffix not in (".mp4", ".gif", ".png"):
    raise ConfigError(f"{path} must end in .mp4, .gif or .png.")


def clip_paths(out: str, prompts: Sequence[str]) -> list[pathlib.Path]:
  """A file for each clip: `out` itself of one, else in the folder `out`.

  Raises:
    ConfigError: one file for several clips, or an ending of no kind.
  """
  path = pathlib.Path(out)
  if len(prompts) == 1 and not out.endswith("/") and path.suffix:
    check_ending(path)
    return [path]
  if path.suffix:
    raise ConfigError(
      f"--out={out} is one file for {len(prompts)} clips; name a folder."
    )
  names = numbered([slug(prompt) for prompt in prompts])
  return [path / f"{name}.mp4" for name in names]


def contact_sheet(
  path: pathlib.Path,
  captions: Sequence[str],
  columns: Sequence[tuple[str, Sequence[np.ndarray | None]]],
  *,
  shown: int = SHOWN,
  side: int = 96,
):
  """A png with a row of frames for every caption and column of clips.

  Args:
    path: of the png.
    captions: one a row.
    columns: (title, clips uint8 [T, H, W, 3] or None), such as ground truth
      and generated.
    shown: frames of each clip, evenly over its length.
    side: pixels of a frame's longer side.
  """
  gap, margin, head = 4, 12, 26
  strip = shown * (side + gap)
  width = margin + len(columns) * (strip + margin)
  line = side + head
  sheet = PIL.Image.new("RGB", (width, head + len(captions) * line), "white")
  draw = PIL.ImageDraw.Draw(sheet)
  for c, (title, clips) in enumerate(columns):
    x0 = margin + c * (strip + margin)
    draw_text(draw, (x0, 6), title, "black", LETTERS)
    for r, clip in enumerate(clips):
      y0 = head + r * line
      if c == 0:
        draw_text(draw, (x0, y0 + 5), captions[r], "black", LETTERS)
      if clip is None:
        continue
      for i, t in enumerate(evenly(len(clip), shown)):
        frame = PIL.Image.fromarray(clip[t])
        scale = side / max(frame.size)
        size = [max(round(n * scale), 1) for n in frame.size]
        frame = frame.resize(size, PIL.Image.Resampling.NEAREST)
        sheet.paste(frame, (x0 + i * (side + gap), y0 + head))
  _save(path, "png", sheet)


def evenly(frames: int, shown: int = SHOWN) -> list[int]:
  """Which of the frames a contact sheet shows: the ends and some between."""
  return np.linspace(0, frames - 1, shown).round().astype(int).tolist()


def to_uint8(pixels: np.ndarray) -> np.ndarray:
  """Pixels in [-1, 1] as bytes; truncates, as the released code does."""
  return np.clip(pixels * 127.5 + 127.5, 0, 255).astype(np.uint8)


def _save(path: pathlib.Path, kind: str, picture: PIL.Image.Image, **options):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  try:
    picture.save(beside, kind, **options)
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def slug(text: str, limit: int = 60) -> str:
  """A file name that still says what the prompt was."""
  kept = "".join(c if c.isalnum() else "-" for c in text.lower())
  joined = "-".join(part for part in kept.split("-") if part)
  return joined[:limit].rstrip("-") or "sample"


def numbered(names: Iterable[str]) -> list[str]:
  """The names, made distinct by numbers where they repeat."""
  result: dict[str, None] = {}
  for name in names:
    number, free = 1, name
    while free in result:
      number += 1
      free = f"{name}-{number}"
    result[free] = None
  return list(result)
