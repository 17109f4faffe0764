"""The table of docs/inputs.md: what becomes of unusual and broken inputs."""

import errno
import json
import os
import pathlib
import resource
import shutil
import tempfile

import av
import numpy as np
import PIL.Image
import pytest

from pyramid_jax.config import EncodeConfig, FlowConfig, UserError
from pyramid_jax.data import encode, files, latents, sources, video
from pyramid_jax.data.damage import BadVideo, bad_video
from pyramid_jax.data.files import find_files
from pyramid_jax.data.latent_writer import LatentWriter, split_ids
from tests.data import random_store
from tests.data.test_encode import to_features, to_latents
from tests.data.videos import numbered, numbers, write_video

SIZE = [(32, 32)]


def coded(path, codec, pixels, height=32, width=32, count=9, alpha=False):
  """Numbered frames in any codec and format of pixels."""
  with av.open(str(path), "w") as file:
    stream = file.add_stream(codec, rate=24)
    stream.height, stream.width, stream.pix_fmt = height, width, pixels
    for i, image in enumerate(numbered(count, height, width)):
      if alpha:
        image = np.concatenate([image, np.full_like(image[..., :1], 128)], -1)
      kind = "rgba" if alpha else "rgb24"
      frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(image), format=kind
      )
      frame.pts = i
      file.mux(stream.encode(frame))
    file.mux(stream.encode())
  return path


@pytest.mark.parametrize(
  "name, codec, pixels, more",
  [
    ("10 bit.mp4", "libx264", "yuv420p10le", {}),
    ("10 bit.mov", "prores_ks", "yuv422p10le", {}),
    ("alpha.webm", "libvpx-vp9", "yuva420p", {"alpha": True}),
    ("alpha.mov", "qtrle", "argb", {"alpha": True}),
    ("odd.mp4", "libx264", "yuv444p", {"height": 31, "width": 45}),
    ("odd.webm", "libvpx-vp9", "yuv420p", {"height": 31, "width": 45}),
    ("one frame.mp4", "libx264", "yuv420p", {"count": 1}),
    ("vp8.webm", "libvpx", "yuv420p", {}),
    ("lossless.mkv", "ffv1", "yuv420p", {}),
  ],
)
def test_unusual_videos_are_decoded(tmp_path, name, codec, pixels, more):
  path = coded(tmp_path / name, codec, pixels, **more)
  frames = video.read_clip(path, SIZE).video
  assert frames.shape[1:] == (32, 32, 3)
  assert numbers(frames) == list(range(more.get("count", 9)))


def test_content_is_read_as_its_file_is(tmp_path):
  path = coded(tmp_path / "a.mp4", "libx264", "yuv420p")
  np.testing.assert_array_equal(
    video.read_clip(path.read_bytes(), SIZE).video,
    video.read_clip(path, SIZE).video,
  )


def test_images_of_any_depth_keep_their_values(tmp_path):
  ramp = np.linspace(0, 65535, 32).astype(np.uint16)
  PIL.Image.fromarray(np.tile(ramp, (32, 1))).save(tmp_path / "16.png")
  PIL.Image.fromarray(np.tile(ramp // 257, (32, 1)).astype(np.uint8)).save(
    tmp_path / "8.png"
  )
  PIL.Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
  read = lambda name: video.read_clip(tmp_path / name, SIZE).video[0]
  np.testing.assert_array_equal(read("16.png"), read("8.png"))
  assert read("c.jpg")[9, 9].tolist() == [255, 0, 0]


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
  """FFmpeg takes what stands before a colon for a protocol."""
  write_video(tmp_path / "file:a.mp4", numbered(9))
  monkeypatch.chdir(tmp_path)
  assert len(video.read_clip("file:a.mp4", SIZE).video) == 9
  with pytest.raises(BadVideo, match="No such file"):
    video.read_clip("http://localhost/a.mp4", SIZE)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_200_damaged_images_are_refused_or_decoded(tmp_path, ending):
  noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  path = tmp_path / f"a.{ending}"
  PIL.Image.fromarray(noise).save(path)
  data, refused = path.read_bytes(), 0
  for seed in range(200):
    rng = np.random.default_rng(seed)
    damaged = bytearray(data)
    for at in rng.integers(len(data), size=rng.integers(1, 9)):
      damaged[at] = rng.integers(256)
    path.write_bytes(damaged[: rng.integers(1, len(data))] if seed % 4 == 0
                     else damaged)  # fmt: skip
    try:
      assert video.read_clip(path, SIZE).video.shape == (1, 32, 32, 3)
    except BadVideo:
      refused += 1
  # a changed byte of a JPEG or WebP is mostly a legal value
  assert refused >= (180 if ending == "png" else 40)


@pytest.fixture
def folder(tmp_path):
  """A folder with a good file and whatever a folder may hold beside."""
  path = tmp_path / "inputs"
  path.mkdir()
  write_video(path / "good.mp4", numbered(9))
  good = (path / "good.mp4").read_bytes()
  named = ("empty caption", "long caption", "latin", "later")
  for name in named:
    (path / f"{name}.mp4").write_bytes(good)
  (path / "empty caption.txt").write_text(" \n\n")
  (path / "long caption.txt").write_text("word " * 2000)
  (path / "latin.txt").write_bytes(b"un caf\xe9")
  (path / "later.txt").symlink_to("nothing.txt")
  (path / "folder.mp4").mkdir()
  (path / "nothing.mp4").symlink_to("absent.mp4")
  (path / "linked").symlink_to(tmp_path)
  os.mkfifo(path / "pipe.mp4")
  (path / "zero.mp4").write_bytes(b"")
  with open(os.fsencode(path) + b"/caf\xe9.mp4", "wb") as file:
    file.write(good)
  return path


def test_what_is_no_clip_is_named_and_the_rest_is_stored(folder, tmp_path):
  config = EncodeConfig(sizes=((32, 32),), max_frames=9, batch=2)
  clips = sources.open_clips(folder, config)
  writer = LatentWriter(
    tmp_path / "store", random_store.METADATA, random_store.NULL,
    split_ids(clips.ids, 9),
  )  # fmt: skip
  encode.encode_clips(clips, writer, to_latents, to_features)
  summary = encode.finish(clips, writer, 24, FlowConfig(stages=2), 2)
  lines = (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()
  assert {x["id"]: x["reason"] for x in map(json.loads, lines)} == {
    "folder.mp4": "a folder, no file",
    "linked": "a link to a folder; name that folder",
    "nothing.mp4": "a link to nothing",
    "pipe.mp4": "no file",
    "caf\\udce9.mp4": "its name is no UTF-8; rename it",
    "latin.mp4": "its .txt is no UTF-8 (byte 6)",
    "zero.mp4": "Invalid data found when processing input",
  }
  store = latents.open_store(tmp_path / "store")
  captions = {x["id"]: x["caption"] for x in store}
  assert captions == {
    "good.mp4": "good",
    "empty caption.mp4": "",
    "long caption.mp4": ("word " * 2000).strip(),
    "later.mp4": "later",
  }
  assert (summary.inputs, summary.stored, summary.no_caption) == (11, 4, 1)
  assert "1 clips have an empty caption" in str(summary)


@pytest.mark.parametrize(
  ("error", "expected"),
  [
    *((OSError(n, os.strerror(n), "a.mp4"), UserError) for n in (
      errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
      errno.ENOMEM,
    )),
    (MemoryError(), UserError),
    *((OSError(n, os.strerror(n), "a.mp4"), BadVideo) for n in (
      errno.EIO, errno.EACCES, errno.ENOENT,
    )),
    # a damaged table of an mp4 asks for gigabytes
    (av.error.MemoryError(errno.ENOMEM, "no memory", "a.mp4"), BadVideo),
  ],
)  # fmt: skip
def test_what_any_file_would_give_is_no_damage(error, expected):
  with pytest.raises(expected) as raised, bad_video():
    raise error
  if expected is UserError:
    assert "run the same command again" in str(raised.value)


def test_too_many_open_files_are_no_damage(tmp_path):
  path = write_video(tmp_path / "a.mp4", numbered(9))
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  free = os.dup(0)
  os.close(free)
  resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
  try:
    with pytest.raises(UserError, match="a.mp4.*: Too many open files"):
      video.read_clip(path, SIZE)
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_server_that_is_away_leaves_nothing_out(tmp_path, monkeypatch):
  """Neither of the list of files, nor of the store."""
  (tmp_path / "in").mkdir()
  for i in range(4):
    write_video(tmp_path / "in" / f"{i}.mp4", numbered(9))
  config = EncodeConfig(sizes=((32, 32),), max_frames=9)

  def run():
    clips = sources.open_clips(tmp_path / "in", config)
    writer = LatentWriter(
      tmp_path / "store", random_store.METADATA, random_store.NULL,
      split_ids(clips.ids, 2),
    )  # fmt: skip
    encode.encode_clips(clips, writer, to_latents, to_features)
    return encode.finish(clips, writer, 24, FlowConfig(stages=2), 2)

  for module, name, file in ((files.os, "stat", "1"), (av, "open", "2")):
    before = getattr(module, name)

    def away(path, *args, file=file, before=before, **kwargs):
      if str(path).endswith(f"{file}.mp4"):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
      return before(path, *args, **kwargs)

    with monkeypatch.context() as patch:
      patch.setattr(module, name, away)
      with pytest.raises(UserError, match=f"{file}.mp4: Stale file handle"):
        run()
  assert latents.shard_name(0, 2) in os.listdir(tmp_path / "store")
  summary = run()
  assert (summary.stored, summary.skipped) == (4, {})


def test_files_that_may_not_be_read_are_named():
  """As another user, since root may read everything."""
  path = pathlib.Path(tempfile.mkdtemp(dir="/tmp"))
  try:
    path.chmod(0o755)
    for name in ("a", "b", "c"):
      write_video(path / f"{name}.mp4", numbered(9))
    (path / "b.mp4").chmod(0)
    (path / "c.txt").write_text("a caption")
    (path / "c.txt").chmod(0)
    (path / "inside").mkdir(mode=0)
    root = os.geteuid() == 0
    if root:
      os.seteuid(65534)
    try:
      items, left_out = find_files(path)
      with pytest.raises(BadVideo, match="Permission denied"):
        video.read_clip(path / "b.mp4", SIZE)
    finally:
      if root:
        os.seteuid(0)
    assert [item.id for item in items] == ["a.mp4", "b.mp4"]
    assert left_out == [
      ("inside", "Permission denied, a folder"),
      ("c.mp4", "its .txt cannot be read (Permission denied)"),
    ]
  finally:
    (path / "inside").chmod(0o700)
    shutil.rmtree(path)


def test_ids_are_unique_even_where_a_name_looks_like_a_number(tmp_path):
  path = tmp_path / "list.jsonl"
  names = ["a.mp4", "a.mp4#3", "a.mp4", "a.mp4"]
  path.write_text(
    "".join(json.dumps({"video": n, "text": "x"}) + "\n" for n in names)
  )
  ids = [item.id for item in find_files(path).items]
  assert len(set(ids)) == 4 and ids[:2] == names[:2]
