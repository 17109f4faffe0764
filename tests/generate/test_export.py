"""Files that others can play; never a half-written one."""

import av
import numpy as np
import PIL.Image
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.data import video
from pyramid_jax.generate import export
from tests.data import videos


def decode(path):
  with av.open(str(path)) as file:
    stream = file.streams.video[0]
    frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    return np.stack(frames), stream.average_rate, stream.codec_context.name


@pytest.mark.parametrize("fps", [24.0, 8.0, 23.976])
def test_an_mp4_has_every_frame_in_order_at_its_rate(tmp_path, fps):
  frames = videos.numbered(17, 48, 64)
  export.write_clip(tmp_path / "a" / "clip.mp4", frames, fps)
  found, rate, codec = decode(tmp_path / "a" / "clip.mp4")
  assert found.shape == frames.shape and codec == "h264"
  assert videos.numbers(found) == list(range(17))
  np.testing.assert_allclose(float(rate), fps, rtol=1e-4)  # 24000/1001


def test_frames_may_come_a_few_at_a_time(tmp_path):
  frames = videos.numbered(9)
  with export.mp4_writer(tmp_path / "clip.mp4") as append:
    for part in (frames[:1], frames[1:4], frames[4:]):
      append(part)
  assert videos.numbers(decode(tmp_path / "clip.mp4")[0]) == list(range(9))


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
  export.write_clip(tmp_path / "clip.mp4", videos.numbered(3, 33, 47), 24)
  found = decode(tmp_path / "clip.mp4")[0]
  assert found.shape == (3, 32, 46, 3)
  assert videos.numbers(found) == [0, 1, 2]


def test_colours_survive(tmp_path):
  colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
  frames = np.broadcast_to(colours[:, None, None], (3, 32, 32, 3))
  export.write_clip(tmp_path / "clip.mp4", frames, 24)
  error = np.abs(decode(tmp_path / "clip.mp4")[0].astype(int) - frames)
  assert error.max() <= 6  # 8 bits of YUV and the codec


@pytest.mark.parametrize("height, width", [(768, 1280), (64, 64)])
def test_a_file_says_how_its_colours_are_coded(tmp_path, height, width):
  red = np.array([236, 28, 28], np.uint8)
  frames = np.broadcast_to(red, (3, height, width, 3))
  export.write_clip(tmp_path / "clip.mp4", frames, 24)
  with av.open(str(tmp_path / "clip.mp4")) as file:
    codec = file.streams.video[0].codec_context
    # matrix, primaries and transfer of BT.709, values 16 to 235
    assert (codec.colorspace, codec.color_primaries) == (1, 1)
    assert (codec.color_trc, codec.color_range) == (1, 1)
    planes = next(file.decode(video=0)).planes
    y, u, v = (float(np.frombuffer(p, np.uint8)[0]) for p in planes)
  y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
  r, b = y + 2 * (1 - 0.2126) * v, y + 2 * (1 - 0.0722) * u
  g = (y - 0.2126 * r - 0.0722 * b) / 0.7152
  # 8 bits of YUV and the codec; by BT.601's matrix green is off by 20
  np.testing.assert_allclose(np.multiply(255, (r, g, b)), red, atol=3)
  shown = decode(tmp_path / "clip.mp4")[0].astype(int)
  assert np.abs(shown - red).max() <= 3
  assert np.abs(video.read_frames(tmp_path / "clip.mp4") - shown).max() <= 3


@pytest.mark.parametrize("lossless", [False, True])
def test_a_relative_name_may_have_a_colon(tmp_path, monkeypatch, lossless):
  monkeypatch.chdir(tmp_path)
  with export.mp4_writer("cat:1.mp4", lossless=lossless) as append:
    append(videos.numbered(3))
  frames, _ = export.read_mp4("cat:1.mp4")
  assert videos.numbers(frames) == [0, 1, 2]
  assert [p.name for p in tmp_path.iterdir()] == ["cat:1.mp4"]


def test_a_gif_loops_with_all_frames(tmp_path):
  frames = videos.numbered(5)
  export.write_clip(tmp_path / "clip.gif", frames, 24)
  with PIL.Image.open(tmp_path / "clip.gif") as file:
    assert (file.n_frames, file.info["duration"]) == (5, 40)
    assert file.info["loop"] == 0
    found = []
    for i in range(file.n_frames):
      file.seek(i)
      found.append(np.asarray(file.convert("RGB")))
  assert videos.numbers(np.stack(found)) == list(range(5))


def test_a_png_is_the_first_frame_exactly(tmp_path):
  frames = np.random.default_rng(0).integers(0, 256, (3, 7, 9, 3), np.uint8)
  export.write_clip(tmp_path / "clip.png", frames, 24)
  found = np.asarray(PIL.Image.open(tmp_path / "clip.png"))
  np.testing.assert_array_equal(found, frames[0])


def test_another_ending_is_refused_by_name(tmp_path):
  with pytest.raises(ConfigError, match=r"clip\.avi must end in \.mp4, \.gif"):
    export.write_clip(tmp_path / "clip.avi", videos.numbered(1), 24)
  assert not list(tmp_path.iterdir())


def test_an_interrupted_mp4_leaves_the_file_of_before(tmp_path):
  path = tmp_path / "clip.mp4"
  path.write_bytes(b"before")
  with pytest.raises(KeyboardInterrupt), export.mp4_writer(path) as append:
    append(videos.numbered(5))
    raise KeyboardInterrupt
  assert path.read_bytes() == b"before"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_a_picture_that_cannot_be_written_leaves_nothing(
  tmp_path, ending, monkeypatch
):
  def full(self, path, *args, **kwargs):
    path.write_bytes(b"half")
    raise OSError("No space left on device")

  monkeypatch.setattr(PIL.Image.Image, "save", full)
  with pytest.raises(OSError):
    export.write_clip(tmp_path / f"clip.{ending}", videos.numbered(2), 24)
  assert not list(tmp_path.iterdir())


def sheet(path, captions, truth, generated, **options):
  columns = [("ground truth", truth), ("generated", generated)]
  export.contact_sheet(path, captions, columns, **options)
  return np.asarray(PIL.Image.open(path).convert("RGB"))


def test_a_sheet_shows_the_frames_of_every_clip_and_column(tmp_path):
  clips = [videos.numbered(9, 16, 16), videos.numbered(9, 16, 16) + 40]
  found = sheet(
    tmp_path / "sheet.png", ["one", "two"], [clips[0], None], clips,
    shown=3, side=32,
  )  # fmt: skip
  # margin 12, gap 4: two strips of 3 frames; a heading and two lines of 26
  assert found.shape == (26 + 2 * (32 + 26), 12 + 2 * (3 * 36 + 12), 3)
  for row, column, clip in ((0, 0, 0), (0, 1, 0), (1, 1, 1)):
    for place, frame in enumerate((0, 4, 8)):
      x = 12 + column * 120 + place * 36
      y = 26 + row * 58 + 26
      part = found[y : y + 32, x : x + 32]
      assert (part == clips[clip][frame, 0, 0]).all(), (row, column, place)
  assert (found[110:142, 12:120] == 255).all()  # no ground truth there


def test_captions_and_titles_are_drawn(tmp_path):
  clip = [videos.numbered(1, 16, 16)]
  drawn = sheet(tmp_path / "a.png", ["a red circle"], clip, clip)
  other = sheet(tmp_path / "b.png", [""], clip, clip)
  differs = (drawn != other).any(-1)
  assert differs[26:52].any() and not differs[:26].any()
  assert not differs[52:].any()
  assert (drawn[:26] != 255).any()  # titles


def test_wide_clips_keep_their_shape(tmp_path):
  clip = [np.zeros((1, 16, 32, 3), np.uint8)]
  found = sheet(tmp_path / "a.png", [""], clip, clip, shown=1, side=32)
  black = (found[52:] == 0).all(-1)
  assert black[:16, 12:44].all() and not black[16:].any()


def test_pixels_become_bytes_as_in_the_released_code():
  pixels = np.array([-2, -1, 0, 0.999, 1, 3], np.float32)
  np.testing.assert_array_equal(
    export.to_uint8(pixels), [0, 0, 127, 254, 255, 255]
  )


@pytest.mark.parametrize(
  "prompt, name",
  [
    ("A small red circle, moving!", "a-small-red-circle-moving"),
    ("../../etc/passwd", "etc-passwd"),
    ("été 写真", "été-写真"),
    ("!!!", "sample"),
    ("x" * 99, "x" * 60),
    ("x" * 59 + " y", "x" * 59),
  ],
)
def test_a_prompt_becomes_a_file_name(prompt, name):
  assert export.slug(prompt) == name


def test_names_that_repeat_are_numbered():
  names = ["a", "b", "a", "a"]
  assert export.numbered(names) == ["a", "b", "a-2", "a-3"]
  assert export.numbered(["a", "a", "a-2"]) == ["a", "a-2", "a-2-2"]
