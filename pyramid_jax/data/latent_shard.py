"""Writes one shard of a store of latents.

What the folder holds is described in `latents`.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from pyramid_jax.config import UserError
from pyramid_jax.data import latent_record
from pyramid_jax.data.latent_record import ARRAYS, SIZES, Example, Prompt
from pyramid_jax.data.latents import Metadata

KEYS = ("id", "caption", "pooled", *ARRAYS, *SIZES)


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
    self._notes["digests"].append(digest(*content))
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


def digest(*values: Any) -> str:
  """A hash of arrays and plain values."""
  found = hashlib.blake2b(digest_size=16)
  for value in values:
    if isinstance(value, np.ndarray):
      found.update(f"{value.dtype.name}{value.shape}".encode())
      found.update(np.ascontiguousarray(value).view(np.uint8))
    else:
      found.update(f"{value!r}".encode())
  return found.hexdigest()
