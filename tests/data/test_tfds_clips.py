"""A prepared TFDS dataset is read by the types of its features."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from pyramid_jax.config import ConfigError, EncodeConfig
from pyramid_jax.data import sources
from pyramid_jax.data.video import BadVideo
from tests.data import videos

f = tfds.features
CONFIG = EncodeConfig(
  sizes=((32, 32),), image_sizes=((32, 32), (64, 32)), max_frames=17,
  min_frames=9,
)  # fmt: skip


def png(value, height=40, width=40):
  file = io.BytesIO()
  PIL.Image.new("RGB", (width, height), (value,) * 3).save(file, "png")
  return file.getvalue()


class Builder(tfds.core.GeneratorBasedBuilder):
  """Given features and examples."""

  VERSION = tfds.core.Version("1.2.0")
  code_path = None

  def __init__(self, *, name, features, examples, **options):
    self.name, self.given, self.examples = name, features, examples
    super().__init__(file_format="array_record", **options)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=f.FeaturesDict(self.given), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    yield from enumerate(self.examples)


def prepare(folder, name, features, examples):
  builder = Builder(
    name=name, features=features, examples=examples, data_dir=folder
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Datasets of the kinds that can be read, and of some that cannot."""
  folder = tmp_path_factory.mktemp("tfds")
  tfds.disable_progress_bar()
  coded = videos.write_video(folder / "a.mp4", videos.numbered(20)).read_bytes()
  image, label = (
    f.Image(shape=(None, None, 3)),
    f.ClassLabel(names=["a_cat", "dog"]),
  )
  prepare(
    folder, "pictures", {"image": image, "label": label},
    [{"image": io.BytesIO(png(v, 40 + 40 * (v == 9))), "label": v % 2}
     for v in (8, 9)],
  )  # fmt: skip
  broken = coded[: len(coded) // 2]
  prepare(
    folder, "files",
    {"id": f.Text(), "video": f.Tensor(shape=(), dtype=np.bytes_),
     "caption": f.Text()},
    [{"id": "x", "video": x, "caption": "gray, é"} for x in (coded, broken)],
  )  # fmt: skip
  prepare(
    folder, "frames",
    {"frames": f.Sequence(image), "texts": f.Sequence(f.Text()), "n": label},
    [{"frames": [io.BytesIO(png(16 + 4 * t)) for t in range(n)],
      "texts": ["one", "two"], "n": 0} for n in (12, 3)],
  )  # fmt: skip
  prepare(folder, "numbers", {"n": label}, [{"n": 0}])
  two = {"a": image, "b": image, "text": f.Text()}
  prepare(
    folder, "ambiguous", two,
    [{"a": io.BytesIO(png(0)), "b": io.BytesIO(png(0)), "text": "x"}],
  )  # fmt: skip
  return folder


def open_clips(data_dir, name, **options):
  return sources.open_clips(
    f"tfds:{name}", CONFIG, data_dir=data_dir, **options
  )


@pytest.mark.parametrize("name", ["pictures", "pictures:1.2.0"])
def test_images_with_labels_have_the_sizes_of_images(data_dir, name):
  clips = open_clips(data_dir, name)
  assert clips.ids == [f"{name}/train/{i}" for i in (0, 1)]
  assert [clips.captions(i) for i in (0, 1)] == [("a cat",), ("dog",)]
  shapes = [clips.read(i).video.shape for i in (0, 1)]
  assert shapes == [(1, 32, 32, 3), (1, 64, 32, 3)]
  assert clips.read(1).video[0, 9, 9].tolist() == [9, 9, 9]
  assert (clips.sizes, clips.max_frames) == (CONFIG.image_sizes, 1)


def test_bytes_of_video_files_are_decoded_strictly(data_dir):
  clips = open_clips(data_dir, "files")
  assert clips.captions(0) == ["gray, é"]
  clip = clips.read(0)
  assert videos.numbers(clip.video) == list(range(17)) and clip.trimmed == 0
  with pytest.raises(BadVideo):
    clips.read(1)


def test_sequences_of_images_are_clips(data_dir):
  clips = open_clips(data_dir, "frames")
  assert clips.captions(0) == ["one", "two"]
  clip = clips.read(0)
  assert videos.numbers(clip.video) == list(range(9)) and clip.trimmed == 3
  with pytest.raises(BadVideo, match="too short: 3 frames, at least 9"):
    clips.read(1)


@pytest.mark.parametrize(
  "name, options, message",
  [
    ("numbers", {}, "no features that can be the clip; .*n: ClassLabel"),
    ("ambiguous", {}, r"2 features that can be the clip \(a, b\)"),
    ("absent", {}, "tfds:absent is not prepared in .* --data_dir"),
    ("files:9.9.9", {}, "tfds:files:9.9.9 is not prepared"),
    ("files", {"split": "x"}, "has no split .x.; it has train"),
  ],
)
def test_what_cannot_be_read_is_told(data_dir, name, options, message):
  with pytest.raises(ConfigError, match=message):
    open_clips(data_dir, name, **options)
