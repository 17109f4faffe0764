"""Writes a store of latents, shard by shard, so that a killed run continues.

What the folder holds is described in `latents`.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from pyramid_jax.config import ConfigError, UserError
from pyramid_jax.data import latent_record, latents
from pyramid_jax.data.latent_record import ARRAYS, SIZES, Example, Prompt
from pyramid_jax.data.latents import Lengths, Metadata, NullPrompt

KEYS = ("id", "caption", "pooled", *ARRAYS, *SIZES)


class LatentWriter:
  """Writes a store shard by shard; what a killed run finished is kept.

  Every shard owns a fixed list of ids, and each of them must be added or
  skipped before the shard counts as done: nothing is lost or doubled.
  Processes may write different shards of one store; one calls `finish`.

    writer = LatentWriter(folder, metadata, null, split_ids(ids, 64))
    for index in writer.missing():
      with writer.shard(index) as shard:
        for id in writer.shards[index]:
          shard.add(example)  # or shard.skip(id, reason)
    writer.finish()

  `settings` are what else decides what is stored; a store that does not say
  its own is gone on with.

  Raises:
    ConfigError: the folder holds a store of other encoders, ids, settings or
      version.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    metadata: Metadata,
    null: NullPrompt,
    shards: Sequence[Sequence[str]],
    settings: Mapping[str, Any] | None = None,
  ):
    self.path = pathlib.Path(path)
    self.metadata = metadata
    self.null = null
    self.shards = [tuple(ids) for ids in shards]
    seen: set[str] = set()
    for id in (i for shard in self.shards for i in shard):
      if id in seen:
        raise ConfigError(f"The id {id!r} occurs twice; ids must be unique.")
      seen.add(id)
    self._start = {
      "version": latents.VERSION,
      **metadata.identity(),
      "null": _digest(null.text, null.pooled),
      "ids": hashlib.sha256(json.dumps(self.shards).encode()).hexdigest(),
    }
    # apart, since runs know a store by a fingerprint that has `_start` in it
    self._settings = json.loads(json.dumps(dict(settings or {})))
    self._begin()

  def _begin(self):
    """Starts the folder, or checks that this run continues it."""
    self.path.mkdir(parents=True, exist_ok=True)
    for name in ("metadata.json", "writing.json"):
      if (self.path / name).exists():
        old = json.loads((self.path / name).read_text())
        changed = [
          f"{k} {old.get(k)!r} -> {v!r}"
          for k, v in self._start.items()
          if old.get(k) != v
          # what is finished stays as it is
          and not (k == "version" and name == "metadata.json")
        ]
        known = old.get("encode", {})
        changed += [
          f"config.encode.{k} {known[k]!r} -> {v!r}"
          for k, v in self._settings.items()
          if k in known and known[k] != v
        ]
        if changed:
          raise ConfigError(
            f"{self.path} holds a store made with other inputs or settings: "
            f"{'; '.join(changed)}. Choose another folder, or delete this one."
          )
        return
    _write(self.path / "null_prompt.npz", _npz(**self._null_arrays()))
    start = {**self._start, "encode": self._settings}
    _write(self.path / "writing.json", json.dumps(start, indent=2))

  def _null_arrays(self) -> dict[str, np.ndarray]:
    """The null prompt as its file has it, of the captions' dtype."""
    text = self.null.text.astype(self.metadata.text_dtype)
    return {
      "text": np.frombuffer(text.tobytes(), np.uint8),
      "dtype": np.array(text.dtype.name),
      "shape": np.array(text.shape),
      "pooled": np.asarray(self.null.pooled, np.float32),
    }

  @property
  def complete(self) -> bool:
    """Whether `finish` has run."""
    return (self.path / "metadata.json").exists()

  def done(self, index: int) -> bool:
    """Whether a shard is finished."""
    return self.complete or self._file(index).exists()

  def missing(self) -> list[int]:
    """Shards that still have to be written."""
    return [i for i in range(len(self.shards)) if not self.done(i)]

  @property
  def done_ids(self) -> set[str]:
    """Ids of the finished shards, skipped ones included."""
    done = [s for i, s in enumerate(self.shards) if self.done(i)]
    return {i for shard in done for i in shard}

  def _file(self, index: int) -> pathlib.Path:
    return self.path / latents.shard_name(index, len(self.shards))

  def _notes(self, index: int) -> pathlib.Path:
    return self.path / f"shard-{index:05d}.json"

  @contextlib.contextmanager
  def shard(self, index: int) -> Iterator["ShardWriter"]:
    """A writer of one shard, which counts as finished on a clean exit.

    Raises:
      ValueError: an id of the shard was neither added nor skipped.
      UserError: the records did not reach the disk whole.
    """
    whole = self._file(index)
    part = whole.with_name(f"{whole.name}.partial")
    shard = ShardWriter(part, self.metadata, self.shards[index])
    try:
      yield shard
      notes = shard.close()
    except BaseException:
      shard.abandon()
      raise
    _write(self._notes(index), json.dumps(notes))
    os.replace(part, whole)  # from here on it is done

  def notes(self) -> list[dict[str, Any]]:
    """What was noted of each shard while it was written; see `ShardWriter`.

    Raises:
      ConfigError: shards are missing.
    """
    if missing := self.missing():
      raise ConfigError(
        f"{self.path} lacks {len(missing)} of {len(self.shards)} shards (first:"
        f" {missing[0]}); run the same command again to write them."
      )
    every = range(len(self.shards))
    return [json.loads(self._notes(i).read_text()) for i in every]

  def finish(
    self,
    left_out: Sequence[Mapping[str, Any]] = (),
    summary: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes index and metadata, after which the store can be opened.

    Args:
      left_out: lines of skipped.jsonl for inputs that no shard has.
      summary: for summary.json.

    Raises:
      ConfigError: shards are missing, or every input was skipped.
    """
    if self.complete:
      self._clean()
      return
    notes = self.notes()
    skipped = [*left_out, *(line for n in notes for line in n["skipped"])]
    sizes = [size for n in notes for size in n["sizes"]]
    if not sizes:
      raise ConfigError(
        f"No clip could be stored in {self.path}: all {len(skipped)} inputs "
        f"were skipped; the first because {skipped[0]['reason']}"
        if skipped
        else f"There is no clip to store in {self.path}."
      )
    index = _lengths(sizes, [text for n in notes for text in n["text"]])
    _write(self.path / "index.npz", _npz(**dataclasses.asdict(index)))
    if summary is not None:
      _write(self.path / "summary.json", json.dumps(summary, indent=2))
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in skipped]
    _write(self.path / "skipped.jsonl", "".join(lines))
    shards = [len(n["sizes"]) for n in notes]
    latent_record.describe(self.path, shards, sum(n["bytes"] for n in notes))
    digests = [d for n in notes for d in n["digests"]]
    content = json.dumps([self._start, digests]).encode()
    values = {
      **self._start,
      **dataclasses.asdict(self.metadata),
      "encode": self._settings,
      "clips": len(sizes),
      "skipped": len(skipped),
      "shard_lengths": shards,
      "fingerprint": hashlib.sha256(content).hexdigest(),
    }
    _write(self.path / "metadata.json", json.dumps(values, indent=2))
    self._clean()

  def _clean(self):
    """Removes what only the writer needs, and what killed runs left."""
    for pattern in ("writing.json", "shard-*.json", "*.partial"):
      for path in self.path.glob(pattern):
        path.unlink(missing_ok=True)


class ShardWriter:
  """One shard while it is written; made by `LatentWriter.shard`.

  Attributes:
    noted: what else is to be known of the shard when the store is finished;
      plain values.
  """

  def __init__(self, path: pathlib.Path, metadata: Metadata, ids):
    self._path = path
    self._metadata = metadata
    self._left = set(ids)
    self.noted: dict[str, Any] = {}
    self._notes = {"sizes": [], "text": [], "digests": [], "skipped": []}
    self._notes["bytes"] = 0
    self._writer = array_record_module.ArrayRecordWriter(
      str(path),
      "group_size:1,uncompressed",  # latents do not compress
    )

  def _take(self, id: str):
    if id not in self._left:
      raise ValueError(
        f"The id {id!r} does not belong to this shard or was given twice."
      )
    self._left.remove(id)

  def add(
    self, example: Mapping[str, Any], others: Sequence[Prompt] = ()
  ) -> None:
    """Stores id, caption, latent [T, h, w, C], text [n, E], pooled [P],
    frames, height and width (of the video, in frames and pixels).

    `others` are further captions of the clip.

    Raises:
      ValueError: an array of another shape than the metadata says, or a
        non-finite value; the id is named.
    """
    examples = [_checked(example, self._metadata)]
    for prompt in others:
      other = {**examples[0], **prompt._asdict()}
      examples.append(_checked(other, self._metadata))
    example = examples[0]
    self._take(example["id"])
    record = latent_record.encode(examples)
    with self._to_disk():
      self._writer.write(record)
    self._notes["sizes"].append([int(n) for n in example["latent"].shape[:3]])
    self._notes["text"].append([len(x["text"]) for x in examples])
    content = [example[k] for k in sorted(example)]
    for other in examples[1:]:
      content += [other[k] for k in Prompt._fields]
    self._notes["digests"].append(_digest(*content))
    self._notes["bytes"] += len(record)

  def skip(self, id: str, reason: str, **more: Any) -> None:
    """Notes an input that is left out, for skipped.jsonl."""
    self._take(id)
    self._notes["skipped"].append({"id": id, "reason": reason, **more})

  def abandon(self) -> None:
    """Closes and removes the unfinished file."""
    if self._writer.is_open():
      with contextlib.suppress(RuntimeError):  # the disk is still full
        self._writer.close()
    self._path.unlink(missing_ok=True)

  def close(self) -> dict[str, Any]:
    """Brings the records to the disk and returns the shard's index."""
    if self._left:
      raise ValueError(
        f"{len(self._left)} ids of the shard were neither added nor skipped, "
        f"among them {min(self._left)!r}."
      )
    with self._to_disk():
      self._writer.close()
      with open(self._path, "rb") as file:
        os.fsync(file.fileno())
      reader = array_record_module.ArrayRecordReader(str(self._path))
      stored = reader.num_records()
      reader.close()
      if stored != len(self._notes["sizes"]):
        raise RuntimeError(f"{stored} of {len(self._notes['sizes'])} records")
    return {**self._notes, **self.noted}

  @contextlib.contextmanager
  def _to_disk(self) -> Iterator[None]:
    """Names what array_record could not write."""
    try:
      yield
    except RuntimeError as error:
      raise UserError(
        f"{self._path} could not be written ({error}). Make room, then run the "
        "same command again; it redoes this shard only."
      ) from error


def split_ids(ids: Sequence[str], per_shard: int) -> list[list[str]]:
  """Ids of each shard, in order, about `per_shard` to one."""
  shards = max(1, -(-len(ids) // per_shard))
  return [list(part) for part in np.array_split(np.array(ids, object), shards)]


def _checked(example: Mapping[str, Any], metadata: Metadata) -> Example:
  """The example with the store's dtypes, or an error that names its id."""
  example = {k: example[k] for k in KEYS}
  example |= {k: int(example[k]) for k in SIZES}
  wanted = {
    "latent": ((None, None, None, metadata.latent_channels), "latent_dtype"),
    "text": ((None, metadata.text_dim), "text_dtype"),
    "pooled": ((metadata.pooled_dim,), None),
  }
  for key, (shape, field) in wanted.items():
    dtype = getattr(metadata, field) if field else "float32"
    array = np.ascontiguousarray(example[key], np.dtype(dtype))
    if array.ndim != len(shape) or any(
      n == 0 or m not in (None, n)
      for n, m in zip(array.shape, shape, strict=True)
    ):
      raise ValueError(
        f"{key} of {example['id']!r} has shape {array.shape}; the store holds "
        f"{shape}."
      )
    if not np.isfinite(array.astype(np.float32)).all():
      raise ValueError(f"{key} of {example['id']!r} has non-finite values.")
    example[key] = array
  return example


def _lengths(
  sizes: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> Lengths:
  """The index, from each clip's latent sizes and the lengths of its texts."""
  frames, height, width = np.array(sizes, np.int32).T
  text = np.zeros((len(texts), max(map(len, texts))), np.int32)
  for i, lengths in enumerate(texts):
    text[i, : len(lengths)] = lengths
  if text.shape[1] == 1:
    text = text[:, 0]
  return Lengths(frames, height, width, text)


def _digest(*values: Any) -> str:
  """A hash of arrays and plain values."""
  digest = hashlib.blake2b(digest_size=16)
  for value in values:
    if isinstance(value, np.ndarray):
      digest.update(f"{value.dtype.name}{value.shape}".encode())
      digest.update(np.ascontiguousarray(value).view(np.uint8))
    else:
      digest.update(f"{value!r}".encode())
  return digest.hexdigest()


def _npz(**arrays: np.ndarray) -> bytes:
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file.getvalue()


def _write(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file whole or not at all."""
  content = content.encode() if isinstance(content, str) else content
  beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
  with open(beside, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(beside, path)
