"""The stored dataset: latents, text features, pooled vectors, sizes.

A store is a folder that TFDS reads as well (`builder_from_directory(folder)
.as_data_source()`), in ArrayRecord shards, with beside them

  metadata.json    what the latents mean and where they come from; it appears
                   last, so a folder without it is unfinished
  index.npz        the sizes of every clip: planning reads no record
  null_prompt.npz  features of the empty prompt
  skipped.jsonl    inputs left out, with the reason
  summary.json     what became of the inputs, in numbers

A latent is a posterior sample seeded by the clip's id, in float32 and not
normalised. `latent_record` says what a record holds.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyramid_jax.config import ConfigError
from pyramid_jax.data import folders, latent_record
from pyramid_jax.data.latent_record import Example, from_bytes

VERSION = 2
READABLE = (1, 2)  # of version 1 a clip has one caption


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Shift and scale of latents: normalised = (latent - shift) * scale."""

  shift: float = 0.0  # the first frame, and images
  scale: float = 1.0
  video_shift: float = 0.0  # later frames
  video_scale: float = 1.0

  def normalise(self, latent_THWC: np.ndarray) -> np.ndarray:
    """About zero mean and unit variance over the data; float32."""
    out = np.array(latent_THWC, np.float32)
    out[:1] -= self.shift
    out[:1] *= self.scale
    out[1:] -= self.video_shift
    out[1:] *= self.video_scale
    return out

  def restore(self, latent_THWC: np.ndarray) -> np.ndarray:
    """The inverse of `normalise`."""
    out = np.array(latent_THWC, np.float32)
    out[:1] /= self.scale
    out[:1] += self.shift
    out[1:] /= self.video_scale
    out[1:] += self.video_shift
    return out


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What every clip of a store shares.

  The paths say where VAE and text encoder lay; the fingerprints say which
  they were, so a store stays the same when those folders move.
  """

  vae_fingerprint: str
  text_fingerprint: str
  latent_channels: int
  text_dim: int
  pooled_dim: int
  statistics: Statistics = Statistics()
  latent_dtype: str = "float32"
  text_dtype: str = "float32"  # of encoder and features; or "bfloat16"
  text_kind: str = "sd3"
  text_max_tokens: int = 128
  vae_path: str = ""
  text_path: str = ""

  def identity(self) -> dict[str, Any]:
    """Everything but the paths."""
    values = dataclasses.asdict(self)
    return {k: v for k, v in values.items() if not k.endswith("_path")}


@dataclasses.dataclass(frozen=True)
class NullPrompt:
  """Features of the prompt that stands for a dropped one."""

  text: np.ndarray  # [n, E], valid tokens only
  pooled: np.ndarray  # [P]


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Sizes of every clip, in stored order: all that planning needs."""

  frames: np.ndarray  # latent frames
  height: np.ndarray  # of the latent
  width: np.ndarray
  # valid text tokens: [clips], or [clips, captions] with 0 where a clip has
  # fewer captions than another
  text: np.ndarray


@dataclasses.dataclass(frozen=True)
class LatentStore:
  """A finished store; `store[i]` reads one clip as a dict of numpy arrays.

  Keys: id, caption, latent [T, h, w, C], text [n, E], pooled [P], frames,
  height, width (of the video); of several captions it is the first, `read` and
  `captions` know the others. Picklable, safe to read from threads.
  """

  path: pathlib.Path
  metadata: Metadata
  null: NullPrompt
  lengths: Lengths
  fingerprint: str
  records: Any  # of array_record

  def __len__(self) -> int:
    return len(self.lengths.frames)

  def __getitem__(self, i: int) -> Example:
    return self.read(i)

  def read(self, i: int, caption: int = 0) -> Example:
    """Clip i with one of its captions."""
    return latent_record.decode(self._record(i), caption)

  def captions(self, i: int) -> list[str]:
    """All captions of clip i."""
    return latent_record.captions(self._record(i))

  def _record(self, i: int) -> bytes:
    if not 0 <= i < len(self):
      raise IndexError(f"clip {i} of {self.path}, which holds {len(self)}")
    return self.records[i]


def open_store(path: str | os.PathLike) -> LatentStore:
  """Opens a finished store.

  Raises:
    ConfigError: there is none, it is unfinished, or of another version, or the
      folder holds clips.
  """
  path = pathlib.Path(path)
  folders.require_latents(path)
  if not (path / "metadata.json").exists():
    if (path / "writing.json").exists():
      raise ConfigError(
        f"The store {path} is incomplete: its encoding was interrupted. Run "
        "the same pyramid-encode command again; it continues."
      )
    raise ConfigError(
      f"{path} holds no stored latents (no metadata.json); write them with "
      "pyramid-encode --out."
    )
  values = _values(path / "metadata.json")
  if values["version"] not in READABLE:
    raise ConfigError(
      f"The store {path} has format version {values['version']}; this program "
      f"reads versions {', '.join(map(str, READABLE))}. Encode the data again."
    )
  names = {f.name for f in dataclasses.fields(Metadata)}
  metadata = Metadata(
    **{k: v for k, v in values.items() if k in names - {"statistics"}},
    statistics=Statistics(**values["statistics"]),
  )
  with np.load(path / "index.npz") as file:
    lengths = Lengths(**{k: file[k] for k in file.files})
  with np.load(path / "null_prompt.npz") as file:
    text = from_bytes(file["text"].tobytes(), str(file["dtype"]), file["shape"])
    # as captions are, or rows with a dropped prompt would be of another type
    null = NullPrompt(text.astype(metadata.text_dtype), file["pooled"])
  counts = values["shard_lengths"]
  files = [path / shard_name(i, len(counts)) for i in range(len(counts))]
  if gone := [file for file in files if not file.exists()]:
    raise ConfigError(
      f"The store {path} lacks {len(gone)} of its {len(files)} shards (first: "
      f"{gone[0].name}). Copy it again, or delete it and encode again."
    )
  # here and below, so that rows can be packed where only jax and its kin are
  from array_record.python import array_record_data_source

  records = array_record_data_source.ArrayRecordDataSource(
    [f"{file}[0:{n}]" for file, n in zip(files, counts, strict=True)]
  )
  return LatentStore(
    path, metadata, null, lengths, values["fingerprint"], records
  )


def _values(file: pathlib.Path) -> dict[str, Any]:
  """What a store's metadata.json says."""
  try:
    values = json.loads(file.read_text())
    if {"version", "vae_fingerprint"} <= values.keys():
      return values
    reason = "it says no version and no VAE"
  except (ValueError, AttributeError) as error:
    reason = str(error)
  raise ConfigError(
    f"{file} is not that of stored latents, or damaged ({reason}). Name a "
    "folder that pyramid-encode wrote, or encode again."
  )


def open_stores(paths: Sequence[str | os.PathLike]) -> list[LatentStore]:
  """Opens the stores of a mixture.

  Raises:
    ConfigError: there is none, or they come from different encoders.
  """
  if not paths:
    raise ConfigError(
      "config.latents.sources is empty; name a folder that pyramid-encode "
      "wrote."
    )
  stores = [open_store(path) for path in paths]
  first = stores[0].metadata.identity()
  for store in stores[1:]:
    other = store.metadata.identity()
    differ = [k for k in first if first[k] != other[k]]
    if differ:
      raise ConfigError(
        f"The stores {stores[0].path} and {store.path} differ in "
        + "; ".join(f"{k}: {first[k]!r} and {other[k]!r}" for k in differ)
        + ". Encode both with the same VAE and text encoder."
      )
  return stores


def shard_name(index: int, shards: int) -> str:
  return f"latents-train.array_record-{index:05d}-of-{shards:05d}"
