"""Files become the right frames at the right time and size, or `BadVideo`."""

import hashlib

import av
import numpy as np
import PIL.Image
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.data.video import BadVideo, read_clip, read_timeline, resample
from tests.data.videos import CODECS, numbered, numbers, write_video

SIZE = [(32, 32)]


@pytest.fixture(scope="module", params=CODECS)
def file(request, tmp_path_factory):
  """41 numbered frames in each container."""
  path = tmp_path_factory.mktemp("video") / f"a.{request.param}"
  return write_video(path, numbered(41))


def test_every_frame_comes_out_in_order(file):
  clip = read_clip(file, SIZE)
  assert clip.video.shape == (41, 32, 32, 3) and clip.video.dtype == np.uint8
  assert numbers(clip.video) == list(range(41))
  assert clip.trimmed == 0


@pytest.mark.parametrize("start, frames", [(0, 9), (5, 9), (24, 17), (32, 9)])
def test_a_part_equals_that_part_of_the_whole(file, start, frames):
  whole = read_clip(file, SIZE).video
  timeline = read_timeline(file, 24)
  for known in (None, timeline):
    clip = read_clip(file, SIZE, max_frames=frames, start=start, timeline=known)
    np.testing.assert_array_equal(clip.video, whole[start : start + frames])


def test_colors_and_places_survive(tmp_path):
  image = np.full((64, 64, 3), (40, 80, 220), np.uint8)
  image[:32, :32] = (220, 40, 40)
  path = write_video(tmp_path / "a.mp4", image[None].repeat(9, 0), crf="4")
  video = read_clip(path, [(64, 64)]).video.astype(int)
  error = np.abs(video - image)[:, :, [*range(28), *range(36, 64)]]
  # 8-bit YUV keeps RGB within 2; the edge, where chroma is halved, left out
  assert error[:, [*range(28), *range(36, 64)]].max() <= 3


@pytest.mark.parametrize(
  "rate, picks",
  [
    (24, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    (12, [0, 0, 1, 1, 2, 2, 3, 3, 4]),  # ties go to the earlier frame
    (48, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
    (30, [0, 1, 2, 4, 5, 6, 7, 9, 10]),
    (60, [0, 2, 5, 7, 10, 12, 15, 17, 20]),
  ],
)
def test_any_frame_rate_plays_at_its_true_speed(tmp_path, rate, picks):
  path = write_video(tmp_path / "a.mp4", numbered(24), fps=rate)
  clip = read_clip(path, SIZE, fps=24, max_frames=9)
  assert numbers(clip.video) == picks


def test_a_variable_frame_rate_is_resampled_by_time(tmp_path):
  times = [0, 1, 2, 10, 11, 20, 21, 22]
  frames = numbered(len(times))
  path = write_video(tmp_path / "a.mp4", frames, times=times)
  clip = read_clip(path, SIZE, max_frames=17)
  nearest = [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5]
  assert numbers(clip.video) == nearest


@pytest.mark.parametrize("fps", [5.0, 23.976, 24.0, 25.0, 29.97, 50.0, 120.0])
def test_resampling_picks_the_nearest_time(fps):
  rng = np.random.default_rng(0)
  seconds = np.cumsum(rng.uniform(0.01, 0.2, 50)) + 7
  picks = resample(seconds, fps)
  ticks = seconds[0] + np.arange(len(picks)) / fps
  np.testing.assert_array_equal(
    picks, np.abs(seconds[:, None] - ticks).argmin(0)
  )
  assert 0 <= seconds[-1] - ticks[-1] + 0.5 / fps < 1 / fps


def test_frames_are_trimmed_to_8n_plus_1_and_counted(tmp_path):
  path = write_video(tmp_path / "a.mp4", numbered(23))
  clip = read_clip(path, SIZE)
  assert len(clip.video) == 17 and clip.trimmed == 6
  assert read_clip(path, SIZE, max_frames=9).trimmed == 0
  with pytest.raises(ConfigError, match="max_frames 16 is not .*nearest: 17"):
    read_clip(path, SIZE, max_frames=16)


def test_a_short_video_is_bad(tmp_path):
  path = write_video(tmp_path / "a.mp4", numbered(8))
  message = "too short: 8 frames at 24 frames a second, at least 9"
  with pytest.raises(BadVideo, match=message):
    read_clip(path, SIZE, min_frames=9)
  with pytest.raises(BadVideo, match="too short: 0 frames .*from frame 20"):
    read_clip(path, SIZE, start=20)
  assert len(read_clip(path, SIZE, min_frames=8).video) == 1


def quadrants(height, width):
  """Top left red, top right green, the rest blue."""
  image = np.full((height, width, 3), (30, 30, 230), np.uint8)
  image[: height // 2, : width // 2] = (230, 30, 30)
  image[: height // 2, width // 2 :] = (30, 200, 30)
  return image


@pytest.mark.parametrize(
  "shape, chosen",
  [((64, 128), (32, 64)), ((128, 64), (64, 32)), ((96, 100), (32, 32))],
)
def test_the_nearest_aspect_ratio_is_covered_and_cropped(
  tmp_path, shape, chosen
):
  frames = quadrants(*shape)[None].repeat(2, 0)
  path = write_video(tmp_path / "a.mp4", frames)
  PIL.Image.fromarray(frames[0]).save(tmp_path / "a.png")
  sizes = [(32, 32), (32, 64), (64, 32)]
  for file in (path, tmp_path / "a.png"):
    video = read_clip(file, sizes).video
    assert video.shape == (1, *chosen, 3)
    # the middle stays the middle: all quadrants are there, in equal parts
    # (edges aside; 8-bit YUV and the coder's quantisation stay under 12)
    truth = quadrants(*chosen).astype(int)
    away = np.abs(np.arange(chosen[0]) - chosen[0] / 2 + 0.5) > 4
    error = np.abs(video[0] - truth)[away]
    assert np.quantile(error, 0.8) < 12


def test_the_crop_can_be_moved(tmp_path):
  frames = quadrants(32, 64)[None].repeat(2, 0)
  path = write_video(tmp_path / "a.mp4", frames)
  left = read_clip(path, SIZE, crop=(0.0, 0.0)).video[0, 4, :28]
  right = read_clip(path, SIZE, crop=(1.0, 1.0)).video[0, 4, 4:]
  assert (left.argmax(-1) == 0).all() and (right.argmax(-1) == 1).all()


@pytest.mark.parametrize("degrees, corner", [(-90, (0, -1)), (90, (-1, 0))])
def test_rotation_is_undone(tmp_path, degrees, corner):
  frames = np.full((2, 64, 96, 3), 20, np.uint8)
  frames[:, :32, :48] = 230
  path = write_video(tmp_path / "a.mp4", frames, rotation=degrees)
  video = read_clip(path, [(64, 96), (96, 64)]).video
  assert video.shape[1:3] == (96, 64)
  bright = video[0].mean(-1) > 128
  y, x = (8 if c == 0 else -8 for c in corner)
  assert bright[y, x] and 0.2 < bright.mean() < 0.3


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_an_image_is_a_clip_of_one_frame(tmp_path, ending):
  image = quadrants(48, 48)
  path = tmp_path / f"a.{ending}"
  PIL.Image.fromarray(image).save(path, quality=95)
  clip = read_clip(path, [(48, 48)], min_frames=9)
  assert clip.video.shape == (1, 48, 48, 3)
  # lossy formats halve the chroma, so edges differ
  assert np.abs(clip.video[0].astype(int) - image).mean() < 4


def test_images_are_upright_and_opaque(tmp_path):
  image = PIL.Image.fromarray(quadrants(32, 48))
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # shown turned clockwise by 90 degrees
  image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
  turned = read_clip(tmp_path / "turned.jpg", [(48, 32)]).video[0]
  assert turned[4, 28].argmax() == 0 and turned[44, 28].argmax() == 1
  clear = PIL.Image.new("RGBA", (32, 32), (0, 0, 0, 0))
  clear.save(tmp_path / "clear.png")
  assert (read_clip(tmp_path / "clear.png", SIZE).video == 255).all()


def test_a_damaged_file_is_bad(file):
  data = file.read_bytes()
  middle = len(data) // 2
  for name, damaged in {
    "half": data[:middle],
    "short": data[:-2000],
    "gap": data[:middle] + data[middle + 40 :],
    "zeros": data[:middle] + bytes(300) + data[middle + 300 :],
  }.items():
    path = file.with_name(f"{name}{file.suffix}")
    path.write_bytes(damaged)
    with pytest.raises(BadVideo):
      read_clip(path, SIZE)


def test_a_known_hash_notices_any_change(file):
  digest = hashlib.sha256(file.read_bytes()).hexdigest()
  assert len(read_clip(file, SIZE, sha256=digest.upper()).video) == 41
  with pytest.raises(BadVideo, match=f"sha256 is {digest}, not 00"):
    read_clip(file, SIZE, sha256="00")


def test_damage_after_the_clip_does_not_matter(tmp_path):
  path = write_video(tmp_path / "a.mp4", numbered(41))
  whole = read_clip(path, SIZE).video
  with av.open(str(path)) as container:
    packets = [p.pos for p in container.demux(video=0) if p.size]
  data = bytearray(path.read_bytes())
  data[packets[36] : packets[36] + 20] = bytes(20)
  path.write_bytes(data)
  with pytest.raises(BadVideo):
    read_clip(path, SIZE)
  np.testing.assert_array_equal(
    read_clip(path, SIZE, max_frames=17).video, whole[:17]
  )


def write_sound(path):
  with av.open(str(path), "w") as file:
    stream = file.add_stream("aac", rate=8000, layout="mono")
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 8000
    file.mux(stream.encode(frame))
    file.mux(stream.encode())


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.png", "a.jpg"])
def test_what_is_no_video_is_bad(tmp_path, name):
  path = tmp_path / name
  with pytest.raises(BadVideo, match="No such file"):
    read_clip(path, SIZE)
  for content in (b"", b"not a video", bytes(5000)):
    path.write_bytes(content)
    with pytest.raises(BadVideo):
      read_clip(path, SIZE)


def test_sound_alone_and_animations_are_bad(tmp_path):
  write_sound(tmp_path / "a.mp4")
  with pytest.raises(BadVideo, match="no video stream"):
    read_clip(tmp_path / "a.mp4", SIZE)
  pages = [PIL.Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
  pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:])
  with pytest.raises(BadVideo, match="an animation of 2 frames"):
    read_clip(tmp_path / "a.webp", SIZE)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_truncated_image_is_bad(tmp_path, ending):
  path = tmp_path / f"a.{ending}"
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  PIL.Image.fromarray(noise).save(path)
  path.write_bytes(path.read_bytes()[:-400])
  with pytest.raises(BadVideo):
    read_clip(path, SIZE)
