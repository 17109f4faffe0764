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

from pyramid_jax.config import ConfigError
from pyramid_jax.data import folders, latent_record, latents
from pyramid_jax.data.latent_shard import ShardWriter, digest
from pyramid_jax.data.latents import Lengths, Metadata, NullPrompt


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
  its own is gone on with. `per_shard` is what `split_ids` was given; like the
  number of ids it is kept to say how another run differs.

  Raises:
    ConfigError: the folder holds a store of other encoders, ids, settings or
      version, or files that belong to no store.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    metadata: Metadata,
    null: NullPrompt,
    shards: Sequence[Sequence[str]],
    settings: Mapping[str, Any] | None = None,
    per_shard: int | None = None,
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
      "null": digest(null.text, null.pooled),
      "ids": hashlib.sha256(json.dumps(self.shards).encode()).hexdigest(),
    }
    inputs = {"clips": len(seen)}
    if per_shard is not None:
      inputs["per_shard"] = per_shard
    # apart, since runs know a store by a fingerprint that has `_start` in it
    settings = json.loads(json.dumps(dict(settings or {})))
    self._apart = {"inputs": inputs, "encode": settings}
    self._begin()

  def _begin(self):
    """Starts the folder, or checks that this run continues it."""
    folders.require_room(self.path)
    self.path.mkdir(parents=True, exist_ok=True)
    for name in ("metadata.json", "writing.json"):
      if (self.path / name).exists():
        old = json.loads((self.path / name).read_text())
        self._require_same(old, finished=name == "metadata.json")
        return
    _write(self.path / "null_prompt.npz", _npz(**self._null_arrays()))
    start = {**self._start, **self._apart}
    _write(self.path / "writing.json", json.dumps(start, indent=2))

  def _require_same(self, old: Mapping[str, Any], *, finished: bool):
    """Refuses to go on with a store that was begun with something else."""
    changed = []
    for key, value in self._start.items():
      if old.get(key) == value or (key == "version" and finished):
        continue  # what is finished stays as it is
      changed.append(
        self._other_inputs(old.get("inputs", {}))
        if key == "ids"
        else f"{key} {old.get(key)!r} -> {value!r}"
      )
    known = old.get("encode", {})
    changed += [
      f"config.encode.{k} {known[k]!r} -> {v!r}"
      for k, v in self._apart["encode"].items()
      if k in known and known[k] != v
    ]
    if changed:
      raise ConfigError(
        f"{self.path} holds a store made with other inputs or settings: "
        f"{'; '.join(changed)} (its -> now). Give what it was begun with, "
        "choose another folder, or delete this one."
      )

  def _other_inputs(self, its: Mapping[str, int]) -> str:
    """How the inputs of a store differ in number or in their shards."""
    now = self._apart["inputs"]
    told = {"clips": "other inputs", "per_shard": "another --shard"}
    changed = [
      f"{what} ({its[key]} -> {now[key]})"
      for key, what in told.items()
      if key in its and key in now and its[key] != now[key]
    ]
    if changed:
      return " and ".join(changed)
    if its and its == now:
      return f"other inputs, as many ({now['clips']})"
    return "other inputs, or another --shard"

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
  def shard(self, index: int) -> Iterator[ShardWriter]:
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
      **self._apart,
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


def split_ids(ids: Sequence[str], per_shard: int) -> list[list[str]]:
  """Ids of each shard, in order, about `per_shard` to one."""
  shards = max(1, -(-len(ids) // per_shard))
  return [list(part) for part in np.array_split(np.array(ids, object), shards)]


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
