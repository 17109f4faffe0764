"""Features of files: sizes, what they show, what is refused."""

import types

import jax
import numpy as np
import pytest

from pyramid_jax.config import ConfigError
from pyramid_jax.convert import inception
from pyramid_jax.data import video
from pyramid_jax.data.files import find_files
from pyramid_jax.evals import distance, features, frechet
from pyramid_jax.generate import export
from tests.data import videos


@pytest.mark.parametrize("size", [(37, 301), (299, 600), (640, 20)])
def test_resizing_weights_the_four_nearest_pixels(size):
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  found = features.resized(image)
  assert found.shape == (299, 299, 3) and found.dtype == np.float32
  expected = jax.image.resize(
    image.astype(np.float32), (299, 299, 3), "bilinear", antialias=False
  )
  # JAX's places are float32, to 1e-4 of a pixel; neighbours differ by 255
  np.testing.assert_allclose(found, expected, atol=0.03)


def test_an_image_of_the_right_size_stays():
  image = np.random.default_rng(0).integers(0, 256, (299, 299, 3), np.uint8)
  np.testing.assert_array_equal(features.resized(image), image)


def test_pooled_latents_tell_what_is_where_and_what_moves():
  z = np.zeros((3, 8, 6, 2))
  z[:, :2, :2, 1] = 5  # 2 x 1.5 latent pixels a part: the first part and more
  still = features.pooled(z)
  assert still.shape == (2 * 4 * 4 * 2,)
  mean, change = still.reshape(2, 4, 4, 2)
  assert mean[0, 0, 1] == 5 and not mean[1:].any() and not mean[..., 0].any()
  assert not change.any()
  z[1] = 0
  mean, change = features.pooled(z).reshape(2, 4, 4, 2)
  np.testing.assert_allclose(mean[0, 0, 1], 10 / 3)
  assert change[0, 0, 1] == 5  # both steps
  assert features.pooled(z[:1]).shape == (32,)
  assert features.pooled(z[:, :3, :3]).shape == (2 * 3 * 3 * 2,)


def test_parts_of_a_picture_count_by_their_means():
  z = np.random.default_rng(0).normal(size=(1, 8, 12, 3))
  expected = z[0].reshape(4, 2, 4, 3, 3).mean((1, 3))
  np.testing.assert_allclose(features.pooled(z), expected.ravel())


def test_a_file_says_its_format_and_gives_all_its_frames(tmp_path):
  frames = np.full((7, 32, 48, 3), 90, np.uint8)
  export.write_clip(tmp_path / "a.mp4", frames, 24)
  export.write_clip(tmp_path / "a.png", frames, 24)
  assert export.format_of(tmp_path / "a.mp4") == video.Format(24, 7, 32, 48)
  assert export.format_of(tmp_path / "a.png") == video.Format(24, 1, 32, 48)
  # coded in YUV
  np.testing.assert_allclose(
    video.read_frames(tmp_path / "a.mp4"), frames, atol=2
  )
  np.testing.assert_array_equal(
    video.read_frames(tmp_path / "a.png"), frames[:1]
  )


def test_a_turned_video_gives_whole_frames(tmp_path):
  frames = np.zeros((9, 32, 48, 3), np.uint8)
  frames[:, :, 24:] = 200  # right
  path = videos.write_video(tmp_path / "a.mp4", frames, rotation=90)
  turned = video.read_frames(path)
  assert turned.shape == (9, 48, 32, 3)
  halves = sorted([turned[:, :20].mean(), turned[:, 28:].mean()])
  np.testing.assert_allclose(halves, [0, 200], atol=3)  # coded in YUV


def test_other_kinds_and_damaged_files_are_told(tmp_path):
  with pytest.raises(ConfigError, match="has no videos or images"):
    features.list_items(tmp_path)
  (tmp_path / "a.png").write_text("no picture")
  (tmp_path / "b.mp4").write_text("no video")
  with pytest.raises(ConfigError, match=r"b\.mp4 is a video; images are"):
    features.list_items(tmp_path)
  for item in find_files(tmp_path).items:
    with pytest.raises(ConfigError, match=rf"{item.id} cannot be used: "):
      features.read(item)


def test_inception_rounds_nothing_that_it_multiplies():
  model = inception.make_inception()
  images = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
  text = features._inception().lower(model.shapes, images).as_text()
  products = [line for line in text.splitlines() if ".convolution" in line]
  assert len(products) > 90
  assert all("HIGHEST" in line for line in products)


def test_missing_weights_are_told(tmp_path):
  with pytest.raises(ConfigError, match=r"none\.pth is not a file; FID needs"):
    inception.load_inception(tmp_path / "none.pth")


def test_folders_are_compared_by_any_features(tmp_path):
  rng, means = np.random.default_rng(0), {}
  for folder in ("real", "fake"):
    means[folder] = rng.integers(40, 200, (6, 1))
    for i, (value,) in enumerate(means[folder]):
      frames = np.full((3, 16, 16, 3), value, np.uint8)
      export.write_clip(tmp_path / folder / f"{i}.mp4", frames, 24)
  seen = []

  def describe(items):
    for part in (items[:4], items[4:]):
      seen.append(len(part))
      clips = [features.read(item) for item in part]
      yield [item.id for item in part], np.stack([[x.mean()] for x in clips])

  folders = tmp_path / "real", tmp_path / "fake"
  found = distance.of_files(*folders, describe, "brightness")
  assert seen == [4, 2, 4, 2]
  expected = frechet.frechet_distance(
    *(frechet.Moments.of(means[name]) for name in ("real", "fake"))
  )
  # a clip's gray is coded within a grey level
  np.testing.assert_allclose(found.frechet, expected, rtol=0.05)
  assert str(found).endswith(
    "1 features of brightness, 6 real and 6 generated files"
  )
  with pytest.raises(ConfigError, match=r"0\.mp4 is a video; images are"):
    distance.of_files(*folders, describe, "brightness", "image")
  broken = lambda items: iter([([items[0].id], np.array([[np.nan]]))])
  with pytest.raises(ConfigError, match=r"features of 0\.mp4 are not finite"):
    distance.of_files(*folders, broken, "broken")


class GrayVAE:
  """Encodes a clip as its mean, and remembers what it was given."""

  statistics = types.SimpleNamespace(normalise=lambda z: z - 100)

  def __init__(self):
    self.shapes, self.ids = [], []

  def encode(self, clips, ids, window, batch):
    self.shapes += [clip.shape for clip in clips]
    self.ids += ids
    return [clip.mean((1, 2))[:, None, None] for clip in clips]


def test_real_clips_are_made_like_the_generated_ones(tmp_path):
  for name, shape in {"a": (20, 48, 64), "b": (9, 16, 32)}.items():
    frames = np.full((*shape, 3), 120, np.uint8)
    export.write_clip(tmp_path / f"{name}.mp4", frames, 24)
  items, vae = features.list_items(tmp_path), GrayVAE()
  like = video.Format(24, 9, 16, 32)
  run = lambda **options: list(
    features.latent_features(items, vae, like, **options)
  )
  ((names, found),) = run(exact=False)
  assert vae.shapes == [(9, 16, 32, 3)] * 2 and vae.ids == ["a.mp4", "b.mp4"]
  assert names == [str(tmp_path / name) for name in vae.ids]
  # three channels of gray, and none of them changes
  np.testing.assert_allclose(found, [[20, 20, 20, 0, 0, 0]] * 2, atol=2)
  assert len(run(exact=False, batch=1)) == 2
  with pytest.raises(ConfigError, match=(
    r"a\.mp4 has 20 frames of 48 x 64 at 24 a second; the others have 9 frames "
    "of 16 x 32 at 24"
  )):  # fmt: skip
    run(exact=True)
  like = video.Format(24, 17, 16, 32)
  with pytest.raises(ConfigError, match=r"b\.mp4 cannot be used: too short: 9"):
    run(exact=False)
