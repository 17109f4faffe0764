"""Datasets on the command line stand for those of the config."""

import pytest

from pyramid_jax.cli.train import check_local, with_data
from pyramid_jax.config import (
  Config,
  ConfigError,
  LatentDataConfig,
  Source,
)

MIXED = Config(
  latents=LatentDataConfig(
    sources=(Source("clips", 0.875), Source("images", 0.125))
  )
)


def sources(config):
  return [(s.path, s.weight) for s in config.latents.sources]


def test_datasets_keep_the_weights_of_those_that_they_stand_for():
  assert with_data(MIXED, []) == MIXED
  assert sources(with_data(MIXED, ["a", "b"])) == [("a", 0.875), ("b", 0.125)]
  assert sources(with_data(MIXED, ["a"])) == [("a", 1)]  # there is no mixture
  assert sources(with_data(Config(), ["a", "b"])) == [("a", 1), ("b", 1)]
  vae = with_data(Config(kind="vae"), ["clips"])
  assert vae.videos.path == "clips"


def test_a_mixture_is_not_changed_silently():
  with pytest.raises(ConfigError, match="^3 datasets are named, .* has 2"):
    with_data(MIXED, ["a", "b", "c"])
  with pytest.raises(ConfigError, match="names 2 datasets; a VAE"):
    with_data(Config(kind="vae"), ["a", "b"])


def test_an_address_is_no_folder():
  check_local(workdir="/runs/a", logs=None)
  with pytest.raises(ConfigError, match="--workdir=gs://b/run is no folder"):
    check_local(workdir="gs://b/run")


@pytest.mark.parametrize(
  "flag, remedy",
  [
    ("workdir", "Filestore or NFS, or mount a bucket with hierarchical names"),
    ("logs", "Filestore or NFS"),
    ("data", "mount the bucket, as with gcsfuse, and name the place"),
    ("config.train.init", "as with gcsfuse"),
  ],
)
def test_what_is_written_wants_a_disk_that_renames_at_once(flag, remedy):
  with pytest.raises(ConfigError, match=remedy) as told:
    check_local(**{flag: "gs://b/run"})
  assert ("gcsfuse" in str(told.value)) == ("gcsfuse" in remedy)
