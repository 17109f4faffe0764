"""Small video files for tests."""

import av
import numpy as np

from pyramid_jax.data import shapes

CODECS = {  # container ending -> encoder and settings
  "mp4": ("libx264", {"preset": "fast", "g": "12"}),  # with B-frames
  "mov": ("mpeg4", {"g": "12", "qmax": "2"}),
  "webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}


def write_video(path, frames, fps=24, times=None, rotation=0, **options):
  """Encodes [T, H, W, 3]; `times`, in frames at `fps`, makes the rate vary."""
  codec, settings = CODECS[path.suffix[1:]]
  with av.open(str(path), "w") as file:
    stream = file.add_stream(codec, rate=fps, options={**settings, **options})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    if rotation:
      stream.set_display_rotation(rotation)
    for i, image in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts = i if times is None else times[i]
      file.mux(stream.encode(frame))
    file.mux(stream.encode())
  return path


def numbered(count, height=32, width=32):
  """Frames of one gray each, from which `numbers` reads their index."""
  gray = 16 + 4 * np.arange(count, dtype=np.uint8)
  return np.broadcast_to(
    gray[:, None, None, None], (count, height, width, 3)
  ).copy()


def numbers(video):
  """The indices of `numbered` frames, after coding."""
  return np.rint((video.mean((1, 2, 3)) - 16) / 4).astype(int).tolist()


def camera_like(frames, height, width):
  """Moving shapes, texture and sensor noise: costs bits in every block."""
  clip = shapes.render(1, 1, frames, height, width, two_objects=1.0)
  video = clip.video.astype(np.float32)
  y, x = np.mgrid[:height, :width]
  for t in range(frames):
    texture = np.sin((x + 2 * t) / 5) + np.cos((y - t) / 7)
    video[t] += 20 * texture[..., None]
  video += np.random.default_rng(1).normal(0, 4, video.shape)
  return np.clip(video, 0, 255).astype(np.uint8)
