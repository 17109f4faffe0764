"""Video files and images as clips of uint8 frames; a damaged file is an error.

Decoders hide damage by default: they repeat, blend or drop frames. Here every
error check of FFmpeg is on and ends the file, the packets fix beforehand which
frames must come out, and anything else raises `BadVideo`. Video files carry no
checksums, so this has limits: of single altered bytes about one in a hundred
passes as a legal value in H.264, MPEG-4, VP9 and AV1 (more where frames are
small and finely coded), and many in HEVC, VP8 and JPEG. A manifest with hashes
has no such gap. `tests/data/test_video_full.py` counts.

Legend: T frames, H W pixels. Frame k of a clip at `fps` shows the source frame
that is nearest to `k / fps` after the first, so that any frame rate, also a
variable one, is played at its true speed.
"""

import contextlib
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterator, Sequence

import av
import numpy as np
import PIL.Image
import PIL.ImageOps
from av.video.reformatter import Interpolation, VideoReformatter

from pyramid_jax.config import ConfigError
from pyramid_jax.data import damage
from pyramid_jax.data.damage import BadVideo
from pyramid_jax.data.files import IMAGE_ENDINGS

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
# titles that are no UTF-8 are no reason to refuse a file; from 19 on PyAV
# reads such text by itself
READS_IT = int(av.__version__.split(".")[0]) >= 19
FOREIGN_TEXT = {} if READS_IT else {"metadata_errors": "ignore"}
# FFmpeg's own decoders of these notice next to no damage, libvpx does
DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# bicubic, widened when shrinking (no aliasing); chroma at full resolution
RESIZE = (
  Interpolation.BICUBIC
  | Interpolation.ACCURATE_RND
  | Interpolation.FULL_CHR_H_INT
  | Interpolation.FULL_CHR_H_INP
)


Source = pathlib.Path | bytes  # a file, or the content of one


@dataclasses.dataclass(frozen=True)
class Clip:
  """Frames of a file.

  Attributes:
    video: [T, H, W, 3] uint8, T = 8 n + 1.
    trimmed: frames at the end that were left out to make T = 8 n + 1.
  """

  video: np.ndarray
  trimmed: int = 0


@dataclasses.dataclass(frozen=True)
class Timeline:
  """When a video's frames are shown, read from its packets.

  Attributes:
    pts: presentation times in units of the stream, rising.
    picks: for each frame at the asked rate, the index into pts.
  """

  pts: list[int]
  picks: np.ndarray


@dataclasses.dataclass(frozen=True)
class Format:
  """What a file holds: frames a second, their number and size in pixels."""

  fps: float
  frames: int
  height: int
  width: int

  def __str__(self) -> str:
    return (
      f"{self.frames} frames of {self.height} x {self.width} at "
      f"{self.fps:g} a second"
    )


def read_format(path: str | pathlib.Path) -> Format:
  """Reads what a video holds from its packets, without decoding.

  The rate is that of the times at which its frames are shown.

  Raises:
    BadVideo: the packets are damaged, or fewer than the file announces.
  """
  with damage.bad_video(), _open(path) as (_, stream):
    base, guess = stream.time_base, float(stream.guessed_rate or 1)
    height, width = stream.height, stream.width
  pts = read_timeline(path, guess).pts
  fps = (
    float((len(pts) - 1) / ((pts[-1] - pts[0]) * base)) if pts[1:] else guess
  )
  return Format(round(fps, 3), len(pts), height, width)


def read_frames(path: str | pathlib.Path) -> np.ndarray:
  """All frames of a video or image in their own size, uint8 [T, H, W, 3].

  Raises:
    BadVideo: damaged, truncated or empty; no video stream.
  """
  path = pathlib.Path(path)
  if is_image(path):
    with damage.bad_video():
      return np.asarray(_open_image(path))[None]
  pts = read_timeline(path, fps=1.0).pts
  return _decode(path, pts, np.arange(len(pts)), [], (0.5, 0.5))


def read_clip(
  source: str | Source,
  sizes: Sequence[tuple[int, int]],
  fps: float = 24.0,
  max_frames: int = 121,
  min_frames: int = 1,
  start: int = 0,
  timeline: Timeline | None = None,
  crop: tuple[float, float] = (0.5, 0.5),
  sha256: str = "",
) -> Clip:
  """Decodes a clip, resized to cover the best of `sizes` and cropped to it.

  Args:
    source: a video, or the file of an image: a clip of one frame whatever
      `min_frames` says.
    sizes: (height, width) to choose from, by the nearest aspect ratio.
    fps: frame rate of the clip.
    max_frames: frames to read at most, 8 n + 1.
    min_frames: a video with fewer from `start` on is refused.
    start: first frame, at `fps`.
    timeline: of this file, if it is known; saves a pass over the file.
    crop: where the window lies in what overlaps, top to bottom, left to right.
    sha256: of the whole file, in hexadecimal; empty: not known.

  Raises:
    BadVideo: damaged, truncated, empty or too short; no video stream.
    ConfigError: max_frames is not 8 n + 1.
  """
  if max_frames % 8 != 1:
    near = max(round((max_frames - 1) / 8), 0) * 8 + 1
    raise ConfigError(
      f"max_frames {max_frames} is not 8 n + 1; nearest: {near}."
    )
  if isinstance(source, str):
    source = pathlib.Path(source)
  with damage.bad_video():
    if sha256:
      damage.check_hash(source, sha256)
    if is_image(source):
      return Clip(read_image(source, sizes, crop)[None])
    end = None if timeline else start + max_frames
    timeline = timeline or read_timeline(source, fps, end)
    picks = timeline.picks[start : start + max_frames]
    if len(picks) < max(min_frames, 1):
      raise BadVideo(
        f"too short: {len(picks)} frames at {fps:g} frames a second"
        f"{f' from frame {start} on' if start else ''}, "
        f"at least {max(min_frames, 1)} are needed"
      )
    count = (len(picks) - 1) // 8 * 8 + 1
    video = _decode(source, timeline.pts, picks[:count], sizes, crop)
    return Clip(video, len(picks) - count)


def read_timeline(
  source: str | Source, fps: float, end: int | None = None
) -> Timeline:
  """Reads when frames are shown, without decoding: all, or `end` at `fps`.

  Raises:
    BadVideo: the packets are damaged, or fewer than the file announces.
  """
  with damage.bad_video(), _open(source) as (container, stream):
    pts, spans, complete = [], [], True
    for packet in container.demux(stream):
      if not packet.size:
        continue  # PyAV's mark of the end
      damage.check_packet(stream, packet, len(spans))
      shown = packet.duration or damage.frame_seconds(stream) / stream.time_base
      spans.append((packet.pts, packet.pts + int(shown)))
      if not packet.is_discard and _is_shown(stream, packet):
        pts.append(packet.pts)
      if end is not None and packet.dts is not None and pts:
        # dts rises and is at most pts: no frame before it is still to come
        stop = min(pts) + end / fps / stream.time_base
        if packet.dts > stop:
          known = [t for t in pts if t <= packet.dts]
          if max(known, default=stop) > stop:
            pts, complete = known, False
            break
    if not pts:
      raise BadVideo("no frames")
    damage.check_header(container, stream, spans, complete)
    pts.sort()
    if len(set(pts)) < len(pts):
      raise BadVideo("two frames have the same time")
    seconds = np.array([float((t - pts[0]) * stream.time_base) for t in pts])
    if seconds[-1] > 1e6:
      raise BadVideo(f"frames are {seconds[-1]:g} seconds apart")
    return Timeline(pts, resample(seconds, fps)[:end])


def resample(seconds: np.ndarray, fps: float) -> np.ndarray:
  """For each tick of `fps`, the index of the nearest time; ties go down.

  The last tick is less than half a tick after the last time.
  """
  slack = 1e-6  # ticks and times are rounded differently
  last = seconds[-1] - seconds[0]
  ticks = np.arange(math.floor(last * fps + 0.5 - slack) + 1) / fps
  middles = (seconds[1:] + seconds[:-1]) / 2 - seconds[0]
  return np.searchsorted(middles, ticks - slack)


def cover(
  height: int, width: int, sizes: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], tuple[int, int]]:
  """The size of nearest aspect ratio, and what to resize to before the crop.

  Returns:
    (target height, width), (resized height, width), one side equal, the other
    at least as large.
  """
  aspect = math.log(height / width)
  target = min(sizes, key=lambda s: abs(math.log(s[0] / s[1]) - aspect))
  scale = max(target[0] / height, target[1] / width)
  resized = (
    max(target[0], round(height * scale)),
    max(target[1], round(width * scale)),
  )
  return target, resized


def crop_to(
  image: np.ndarray, target: tuple[int, int], crop: tuple[float, float]
) -> np.ndarray:
  """Cuts [..., H, W, 3] to the target size; `crop` as in `read_clip`."""
  top = round((image.shape[-3] - target[0]) * crop[0])
  left = round((image.shape[-2] - target[1]) * crop[1])
  return image[..., top : top + target[0], left : left + target[1], :]


def is_image(source: Source) -> bool:
  """Whether a file is an image, by its ending; content is taken for a video."""
  return (
    not isinstance(source, bytes) and source.suffix.lower() in IMAGE_ENDINGS
  )


def _open_image(source: Source) -> PIL.Image.Image:
  """An image upright, transparent parts white."""
  file = io.BytesIO(source) if isinstance(source, bytes) else source
  with PIL.Image.open(file) as image:
    if getattr(image, "n_frames", 1) > 1:
      raise BadVideo(f"an animation of {image.n_frames} frames, not an image")
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits; Pillow would cut them off at 255
      gray = np.asarray(image) // 257
      image = PIL.Image.fromarray(gray.astype(np.uint8))
    if image.has_transparency_data:
      image = image.convert("RGBA")
      white = PIL.Image.new("RGBA", image.size, "white")
      image = PIL.Image.alpha_composite(white, image)
    return image.convert("RGB")


def read_image(
  source: Source,
  sizes: Sequence[tuple[int, int]],
  crop: tuple[float, float] = (0.5, 0.5),
) -> np.ndarray:
  """An image as [H, W, 3], upright, transparent parts white; see `read_clip`.

  Raises:
    BadVideo: damaged, or an animation.
  """
  with damage.bad_video():
    image = _open_image(source)
    target, (height, width) = cover(image.height, image.width, sizes)
    image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
  return crop_to(np.asarray(image), target, crop)


def _decode(source, pts: list[int], picks, sizes, crop) -> np.ndarray:
  """Frames `pts[picks]`; tries the nearest key frame, then the beginning."""
  if picks[0] > 0:
    with contextlib.suppress(BadVideo):
      return _decode_from(source, pts, picks, sizes, crop, seek=True)
  return _decode_from(source, pts, picks, sizes, crop, seek=False)


def _decode_from(source, pts, picks, sizes, crop, seek: bool) -> np.ndarray:
  """Decodes until every picked frame is there, each exactly in its turn."""
  video, filled, due = None, 0, picks[0]
  resizer = VideoReformatter()  # keeps its tables between frames
  index_of = {t: i for i, t in enumerate(pts)}
  with damage.bad_video(), _open(source) as (container, stream):
    if seek:
      container.seek(pts[picks[0]], stream=stream)
    for frame in _frames(container, stream):
      index = index_of.get(frame.pts)
      if index is not None and index < due == picks[0]:
        continue  # before the clip: what is broken there does not matter
      if frame.is_corrupt or index != due:
        raise BadVideo(
          f"frame {due} is {'damaged' if index == due else 'missing'}"
        )
      due += 1
      copies = int(np.searchsorted(picks, index, "right")) - filled
      if not copies:
        continue
      image = _to_array(frame, stream, sizes, crop, resizer)
      if video is None:
        video = np.empty((len(picks), *image.shape), np.uint8)
      if image.shape != video.shape[1:]:
        raise BadVideo(f"frame {index} has another shape")
      video[filled : filled + copies] = image
      filled += copies
      if filled == len(picks):
        return video
  raise BadVideo(f"the stream ends before frame {due}")


def _to_array(frame, stream, sizes, crop, resizer) -> np.ndarray:
  """A frame upright, with square pixels, resized and cropped."""
  pixel = float(stream.sample_aspect_ratio or 1) or 1.0
  turned = frame.rotation // 90 % 4
  shown = (frame.height, round(frame.width * pixel))
  upright = shown[::-1] if turned % 2 else shown
  target, resized = cover(*upright, sizes or [upright])
  height, width = resized[::-1] if turned % 2 else resized
  image = resizer.reformat(frame, width, height, "rgb24", interpolation=RESIZE)
  return crop_to(np.rot90(image.to_ndarray(), turned), target, crop)


def _is_shown(stream, packet) -> bool:
  """Whether a packet becomes a frame; VP8 has packets only for reference."""
  return stream.codec_context.name != "vp8" or bool(bytes(packet)[0] & 0x10)


@contextlib.contextmanager
def _open(source: str | Source) -> Iterator[tuple]:
  """A container and its video stream, all error checks on."""
  # absolute: FFmpeg takes what stands before a colon for a protocol
  file = (
    io.BytesIO(source)
    if isinstance(source, bytes)
    else str(pathlib.Path(source).absolute())
  )
  with av.open(file, options=STRICT, **FOREIGN_TEXT) as file:
    streams = [
      s
      for s in file.streams.video
      if not s.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
      raise BadVideo("no video stream")
    if streams[0].codec_context is None:
      raise BadVideo("unknown codec")
    yield file, streams[0]


def _frames(container, stream) -> Iterator[av.VideoFrame]:
  """Decodes from the current position on, in the order of presentation."""
  decoder, name = stream.codec_context, stream.codec_context.name
  if name in DECODERS:
    decoder = av.CodecContext.create(DECODERS[name], "r")
    decoder.extradata = stream.codec_context.extradata
  decoder.thread_type = "AUTO"
  decoder.options = STRICT
  for packet in container.demux(stream):
    yield from decoder.decode(packet if packet.size else None)
