"""A clip of a store as one record, written and read.

Arrays are raw bytes plus dtype and shape: five times faster to read than TFDS
tensors, and the only way to keep bfloat16. The captions of a clip are a list,
their texts and pooled vectors one after the other, and `text_tokens` says how
long each text is. Records of version 1 have one caption and no `text_tokens`.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  numpy learns the name "bfloat16"
import numpy as np

ARRAYS = ("latent", "text")
SIZES = ("frames", "height", "width")
Example = dict[str, Any]


class Prompt(NamedTuple):
  """A caption and its features."""

  caption: str
  text: np.ndarray  # [n, E], valid tokens only
  pooled: np.ndarray  # [P]


@functools.cache
def features() -> Any:
  """The record as TFDS describes it, a `FeaturesDict`."""
  import tensorflow_datasets as tfds

  raw = tfds.features.Tensor(shape=(), dtype=np.bytes_)
  whole = tfds.features.Scalar(np.int32)
  return tfds.features.FeaturesDict(
    {
      "id": tfds.features.Text(),
      "caption": tfds.features.Sequence(tfds.features.Text()),
      **{k: raw for k in ARRAYS},
      **{f"{k}_dtype": tfds.features.Text() for k in ARRAYS},
      "latent_shape": tfds.features.Tensor(shape=(4,), dtype=np.int32),
      "text_shape": tfds.features.Tensor(shape=(2,), dtype=np.int32),
      "text_tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32),
      "pooled": tfds.features.Tensor(shape=(None,), dtype=np.float32),
      **{k: whole for k in SIZES},
    }
  )


def describe(
  folder: pathlib.Path, shard_lengths: Sequence[int], size: int
) -> None:
  """Writes the files that make a folder of shards a TFDS dataset."""
  import tensorflow_datasets as tfds

  template = tfds.core.ShardedFileTemplate(
    data_dir=folder,
    dataset_name="latents",
    split="train",
    filetype_suffix="array_record",
  )
  split = tfds.core.SplitInfo(
    name="train",
    shard_lengths=list(shard_lengths),
    num_bytes=size,
    filename_template=template,
  )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features(),
    split_infos=[split],
    check_data=False,
    description="Video latents with text features.",
  )


def encode(examples: Sequence[Example]) -> bytes:
  """The record of a clip, given once with each of its captions."""
  first = examples[0]
  texts = [x["text"] for x in examples]
  record = {k: first[k] for k in ("id", *SIZES)}
  record["caption"] = [x["caption"] for x in examples]
  record["pooled"] = np.concatenate([x["pooled"] for x in examples])
  record["text_tokens"] = np.array([len(text) for text in texts], np.int32)
  for key, array in (
    ("latent", first["latent"]),
    ("text", np.concatenate(texts)),
  ):
    record[key] = array.tobytes()
    record[f"{key}_dtype"] = array.dtype.name
    record[f"{key}_shape"] = np.array(array.shape, np.int32)
  made = features().serialize_example(features().encode_example(record))
  # the map of its fields else has another order in every process
  return _example(made).SerializeToString(deterministic=True)


def decode(record: bytes, caption: int = 0) -> Example:
  """A clip with one of its captions, without TFDS's copies."""
  found = fields(record)
  raw = lambda key: found[key].bytes_list.value[0]
  whole = lambda key: found[key].int64_list.value
  captions = found["caption"].bytes_list.value
  example = {"id": raw("id").decode(), "caption": captions[caption].decode()}
  for key in ARRAYS:
    dtype = raw(f"{key}_dtype").decode()
    example[key] = from_bytes(raw(key), dtype, whole(f"{key}_shape"))
  lengths = whole("text_tokens") or [len(example["text"])]
  start = sum(lengths[:caption])
  example["text"] = example["text"][start : start + lengths[caption]]
  pooled = np.array(found["pooled"].float_list.value, np.float32)
  example["pooled"] = pooled.reshape(len(captions), -1)[caption]
  return example | {k: whole(k)[0] for k in SIZES}


def captions(record: bytes) -> list[str]:
  """All captions of a clip."""
  values = fields(record)["caption"].bytes_list.value
  return [text.decode() for text in values]


def from_bytes(raw: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
  """An array from its raw bytes."""
  return np.frombuffer(raw, np.dtype(dtype)).reshape(tuple(shape))


def fields(record: bytes) -> Any:
  """What a record of any TFDS dataset holds, by name."""
  return _example(record).features.feature


def _example(record: bytes) -> Any:
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example.FromString(record)
