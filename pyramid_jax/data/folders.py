"""What a folder of data holds, as the files that say so in it tell.

Stored latents, clips of `shapes_store` and datasets that TFDS prepared all have
a `dataset_info.json`; the first two a `metadata.json` too, of other keys.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

from pyramid_jax.config import ConfigError, LatentDataConfig, Source

LATENTS, CLIPS, TFDS = "stored latents", "clips", "a prepared TFDS dataset"
# A key of metadata.json that only one of the two has.
TELLING = {"vae_fingerprint": LATENTS, "heldout": CLIPS}
# What a writer of latents leaves that was killed before it said what it writes.
STARTED = ("null_prompt.npz*", "writing.json.*.partial", ".*")


def kind(folder: str | os.PathLike) -> str:
  """What a folder holds, whole or not: one of the three above, or "".

  Of latents that are being written too, by other processes for example.
  """
  folder = pathlib.Path(folder)
  if (folder / "writing.json").exists():  # first: it goes when the other comes
    return LATENTS
  try:
    values = json.loads((folder / "metadata.json").read_text())
  except (OSError, ValueError):
    values = {}
  for key, what in TELLING.items():
    if isinstance(values, dict) and key in values:
      return what
  return TFDS if (folder / "dataset_info.json").exists() else ""


def require_latents(folder: str | os.PathLike) -> None:
  """Refuses a folder that holds something else than latents.

  Raises:
    ConfigError: says what, and what to do with it.
  """
  what = kind(folder)
  if what == CLIPS:
    raise ConfigError(
      f"{folder} holds clips; run pyramid-encode --videos={folder} first, and "
      "name the folder of its --out."
    )
  _refuse_tfds(folder, what)


def require_clips(folder: str | os.PathLike) -> None:
  """Refuses a folder that holds something else than clips.

  Raises:
    ConfigError: says what, and what to do with it.
  """
  what = kind(folder)
  if what == LATENTS:
    raise ConfigError(
      f"{folder} holds stored latents; name the clips they were made from."
    )
  _refuse_tfds(folder, what)


def require_room(folder: str | os.PathLike) -> None:
  """Refuses a folder in which latents cannot be stored: one that holds others.

  Raises:
    ConfigError: it has files, and they are none of a store of latents.
  """
  folder, what = pathlib.Path(folder), kind(folder)
  if what == LATENTS or not folder.is_dir():
    return
  foreign = sorted(
    path.name
    for path in folder.iterdir()
    if not any(path.match(pattern) for pattern in STARTED)
  )
  if foreign:
    raise ConfigError(
      f"{folder} holds {what or 'other files'} ({foreign[0]}"
      f"{' and others' if len(foreign) > 1 else ''}); choose a new or empty "
      "folder for the latents."
    )


def require_apart(videos: str, out: str) -> None:
  """Refuses to write among the files that are read.

  Raises:
    ConfigError: `out` is the folder of videos, or lies in it.
  """
  source, target = (pathlib.Path(x).resolve() for x in (videos, out))
  if source.is_dir() and source in (target, *target.parents):
    raise ConfigError(
      f"--out={out} is {'' if target == source else 'in '}the folder of "
      f"--videos={videos}; name another one, beside it for example."
    )


def _refuse_tfds(folder: str | os.PathLike, what: str) -> None:
  if what == TFDS:
    raise ConfigError(
      f"{folder} holds {TFDS}; give it to pyramid-encode as "
      "--videos=tfds:NAME or tfds:NAME:VERSION, with --data_dir naming the "
      "folder that NAME lies in."
    )


def with_folders(
  latents: LatentDataConfig, paths: Sequence[str]
) -> LatentDataConfig:
  """Other folders in place of the sources; they keep the sources' weights.

  One stands for all that are mixed.

  Raises:
    ConfigError: another number of them than of sources.
  """
  before = latents.sources
  if len(paths) == 1 or not before:
    before = (Source(),) * len(paths)
  if len(before) != len(paths):
    raise ConfigError(
      f"{len(paths)} datasets are named, config.latents.sources has "
      f"{len(before)} with their weights; name one or as many, or set the "
      "sources in a config file."
    )
  sources = tuple(
    dataclasses.replace(source, path=str(path))
    for source, path in zip(before, paths, strict=True)
  )
  return dataclasses.replace(latents, sources=sources)
