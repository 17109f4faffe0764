"""Folders of one kind are not taken for those of another, nor written into."""

import json

import pytest

from pyramid_jax.config import ConfigError, EncodeConfig, VideoDataConfig
from pyramid_jax.data import clips, info, latents, shapes_store, sources
from pyramid_jax.data.folders import kind, require_apart, require_room
from pyramid_jax.data.latent_writer import LatentWriter, split_ids
from pyramid_jax.evals import shapes_run
from tests.data import random_store

FEW = shapes_store.ShapesConfig(
  clips=2, heldout=1, frames=9, height=32, width=32
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A folder of each kind."""
  folder = tmp_path_factory.mktemp("folders")
  random_store.write(folder / "latents", 2)
  shapes_store.write(folder / "shapes", FEW)
  (folder / "prepared").mkdir()
  (folder / "prepared" / "dataset_info.json").write_text("{}")
  (folder / "files").mkdir()
  (folder / "files" / "cat.mp4").touch()
  return folder


@pytest.mark.parametrize(
  "name, what",
  [
    ("latents", "stored latents"),
    ("shapes", "clips"),
    ("prepared", "a prepared TFDS dataset"),
    ("files", ""),
    ("none", ""),
  ],
)
def test_a_folder_says_what_it_holds(made, name, what):
  assert kind(made / name) == what


@pytest.mark.parametrize(
  "name, message",
  [
    ("shapes", r"shapes holds clips; run pyramid-encode --videos=.* first"),
    ("prepared", r"prepared holds a prepared TFDS dataset; .*tfds:NAME"),
  ],
)
def test_what_is_no_latents_is_not_read_as_such(made, name, message):
  with pytest.raises(ConfigError, match=message):
    latents.open_store(made / name)
  text, good = info.report([str(made / name)], None)
  assert not good and "holds" in text


@pytest.mark.parametrize(
  "name, message",
  [
    ("latents", r"latents holds stored latents; name the clips they were made"),
    ("prepared", r"prepared holds a prepared TFDS dataset; .*tfds:NAME"),
  ],
)
@pytest.mark.parametrize(
  "read",
  [
    shapes_store.Stored,
    shapes_run.Dataset,
    lambda path: sources.open_clips(path, EncodeConfig()),
    lambda path: clips.open_sources(VideoDataConfig(path=str(path))),
    lambda path: shapes_store.write(path, FEW),
  ],
  ids=["stored", "evaluate", "encode", "train", "shapes"],
)
def test_what_is_no_clips_is_not_read_as_such(made, name, message, read):
  with pytest.raises(ConfigError, match=message):
    read(made / name)


def test_unfinished_latents_are_no_clips_either(tmp_path):
  LatentWriter(
    tmp_path, random_store.METADATA, random_store.NULL, split_ids(["a"], 1)
  )
  with pytest.raises(ConfigError, match="holds stored latents; name the clips"):
    sources.open_clips(str(tmp_path), EncodeConfig())


def test_metadata_of_neither_is_one_clear_error(tmp_path):
  random_store.write(tmp_path / "s", 2)
  for content in ("[]", "{}", "{"):
    (tmp_path / "s" / "metadata.json").write_text(content)
    (tmp_path / "s" / "dataset_info.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="not that of stored latents, or dam"):
      latents.open_store(tmp_path / "s")


@pytest.mark.parametrize("name", ["shapes", "prepared", "files"])
def test_latents_are_not_written_into_a_folder_of_others(made, name):
  before = sorted(p.name for p in (made / name).iterdir())
  with pytest.raises(ConfigError, match="choose a new or empty folder"):
    LatentWriter(
      made / name,
      random_store.METADATA,
      random_store.NULL,
      split_ids(["a"], 1),
    )
  assert sorted(p.name for p in (made / name).iterdir()) == before


def test_a_store_killed_at_its_first_file_is_no_folder_of_others(tmp_path):
  for name in ("null_prompt.npz", "null_prompt.npz.12ab.partial", ".DS_Store"):
    (tmp_path / name).touch()
  require_room(tmp_path)
  (tmp_path / "writing.json").write_text(json.dumps({}))
  (tmp_path / "shard-00000.json").touch()
  require_room(tmp_path)


@pytest.mark.parametrize(
  "videos, out, good",
  [
    ("files", "files", False),
    ("files", "prepared/../files", False),
    ("files", "files/latents", False),
    ("files", "files_latents", True),
    ("files/cat.mp4", "files", True),  # as a manifest; files are asked for next
    ("tfds:cats", "files", True),
  ],
)
def test_nothing_is_written_among_the_inputs(
  made, monkeypatch, videos, out, good
):
  monkeypatch.chdir(made)
  if good:
    require_apart(videos, out)
    return
  with pytest.raises(ConfigError, match=f"--out={out} is .*the folder of"):
    require_apart(videos, out)
