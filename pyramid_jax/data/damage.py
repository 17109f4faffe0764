"""What tells that a video file is damaged, apart from its decoder.

Anything found is raised as `BadVideo`.
"""

import contextlib
import errno
import hashlib
import pathlib
import struct
import zlib
from collections.abc import Iterator

import av
import PIL.Image

from pyramid_jax.config import UserError
from pyramid_jax.data.files import require_of_one_file

# An unfinished copy leaves blocks of zeros; the entropy coders of these codecs
# never write so many, and H.264 and HEVC forbid even three
ENTROPY_CODED = {"h264", "hevc", "mpeg4", "vp8", "vp9", "av1"}
HOLE = bytes(64)


# What decoders raise at damage; Pillow also SyntaxError and the like
DECODER_ERRORS = (
  av.FFmpegError,
  OSError,
  ValueError,
  ArithmeticError,
  MemoryError,
  LookupError,
  EOFError,
  SyntaxError,
  struct.error,
  zlib.error,
  PIL.Image.DecompressionBombError,
)


class BadVideo(Exception):  # noqa: N818
  """A file that gives no clip; the message is the reason."""


@contextlib.contextmanager
def bad_video() -> Iterator[None]:
  """Turns the errors of the decoders into `BadVideo`.

  Raises:
    UserError: one that says nothing of the file, see `require_of_one_file`.
  """
  try:
    yield
  except DECODER_ERRORS as error:
    if isinstance(error, UserError):
      raise
    # of FFmpeg this is mostly a damaged header that asks for too much of it
    memory = isinstance(error, av.FFmpegError) and error.errno == errno.ENOMEM
    if not memory:
      require_of_one_file(error)
    # of FFmpeg and files without number and name, which are known
    what = getattr(error, "strerror", None)
    raise BadVideo(what or f"{type(error).__name__}: {error}") from error


def check_hash(path: pathlib.Path, expected: str) -> None:
  """Compares the whole file with its SHA-256 in hexadecimal."""
  with path.open("rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
  if found != expected.lower():
    raise BadVideo(f"sha256 is {found}, not {expected.lower()}")


def check_packet(stream, packet, number: int) -> None:
  """Finds damage that shows before decoding."""
  if packet.is_corrupt or packet.pts is None:
    raise BadVideo(f"packet {number} is damaged or has no time")
  if stream.codec_context.name in ENTROPY_CODED and HOLE in bytes(packet):
    raise BadVideo(f"a hole of zeros in packet {number}")


def check_header(
  container, stream, spans: list[tuple[int, int]], complete: bool
) -> None:
  """Compares what was read, to the end if `complete`, with the header.

  `spans` is when each packet is shown, from and until, in units of the stream.
  """
  counted = "mp4" in container.format.name and stream.frames
  if counted and complete and len(spans) != stream.frames:
    raise BadVideo(f"{len(spans)} of {stream.frames} frames are there")
  seconds = _announced_seconds(container, stream)
  if seconds is None:
    return
  first, last = min(spans)[0], max(spans)[0]
  until = max(end for _, end in spans) * stream.time_base
  slack = 0.75 * frame_seconds(stream)
  # some headers count from the first frame, others from zero
  late = (last - first) * stream.time_base > seconds + slack
  if late or (complete and not counted and until < seconds - slack):
    raise BadVideo(
      f"the last frame ends after {float(until):.2f} of {seconds:.2f} seconds"
    )


def _announced_seconds(container, stream) -> float | None:
  """When the video stream ends according to the header, if it says so."""
  text = stream.metadata.get("DURATION", "")  # Matroska: 00:00:05.500000000
  with contextlib.suppress(ValueError):
    hours, minutes, seconds = map(float, text.split(":"))
    return 3600 * hours + 60 * minutes + seconds
  if stream.duration:
    return float(stream.duration * stream.time_base)
  if len(container.streams) == 1 and container.duration:
    return container.duration / av.time_base
  return None


def frame_seconds(stream) -> float:
  """How long a frame is shown, on average."""
  return float(1 / stream.average_rate) if stream.average_rate else 1 / 24
