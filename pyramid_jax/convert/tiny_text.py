"""Tiny text encoders with fixed random weights, for runs without downloads.

Folder and loading code are those of the released encoders. The words of the
captions become one token each, so that the features of "red" and "blue" point
in unrelated directions; anything else is spelled in letters or bytes.
"""

import collections
import json
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from flax import traverse_util
from tokenizers import models, normalizers, pre_tokenizers, processors

from pyramid_jax.config import CLIPConfig, T5Config
from pyramid_jax.convert.text_folder import write_text_encoder
from pyramid_jax.data.tokenize import clip_pipeline
from pyramid_jax.models.pure import Params, pure
from pyramid_jax.models.text import TextModel, combine

MAX_WORDS = 1000  # the most frequent ones; the rest is spelled
# Relative to a layer that keeps variances. Queries and keys: attention looks at
# places, hardly at words. Down: little of what is not linear in the words. Out:
# a word itself counts more than its neighbours.
QUIET = {"q": 0.1, "k": 0.1, "down": 0.1, "o": 0.5}
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tiny_text_encoders(
  folder: str | os.PathLike,
  captions: Iterable[str],
  *,
  seed: int = 0,
  kind: str = "sd3",
  width: int = 64,
):
  """Writes encoders whose T5 and pooled widths are both `width`.

  The same captions, seed, kind and width give the same files.

  Raises:
    SnapshotError: the folder already exists.
  """
  captions = list(captions)
  t5_files = t5_tokenizer_files(captions)
  vocabulary, merges = clip_vocabulary(captions)
  t5 = T5Config(
    vocabulary=tokenizers.Tokenizer.from_buffer(
      t5_files["tokenizer.json"]
    ).get_vocab_size(),
    width=width,
    head_dim=16,
    hidden=2 * width,
    layers=2,
    heads=4,
    dtype="float32",
  )
  clips = 2 if kind == "sd3" else 1
  clip = CLIPConfig(
    vocabulary=len(vocabulary),
    width=width // clips,
    hidden=2 * width // clips,
    projection=width // clips,
    layers=2,
    heads=2,
    end_token=vocabulary[END],
    dtype="float32",
  )
  configs = combine(kind, t5, [clip] * clips)
  files = {
    "clip_l": clip_tokenizer_files(vocabulary, merges, pad=END),
    "clip_g": clip_tokenizer_files(vocabulary, merges, pad="!"),
    "t5": t5_files,
  }
  params = random_params(
    pure(lambda rngs: TextModel(configs, rngs=rngs)).shapes, seed
  )
  write_text_encoder(folder, configs, params, files)


def random_params(shapes: Params, seed: int) -> Params:
  """Fixed weights that keep what the words say, in float32 numpy.

  Embeddings are unit normal and dominate the T5 features. In the CLIPs the
  end token starts from zero and only attention adds to it, so that the pooled
  vector is about the words. All features are nearly linear in the words: "red"
  means the same beside every noun, as it does to trained encoders, and what is
  learned of "red" and of "circle" can be put together.
  """
  rng = np.random.default_rng(seed)

  def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    x = rng.standard_normal(shape, np.float32)
    if path[-1] in ("scale", "bias"):
      return np.full(shape, path[-1] == "scale", np.float32)
    if path[-1] == "kernel":
      factor = np.float32(QUIET.get(path[-2], 1))
      return factor * x / np.sqrt(np.float32(shape[-2]))
    if path[-1] == "positions":
      return x / 10
    if path[0] != "t5" and path[-1] == "embedding":
      x[-1] = 0
    return x

  flat = traverse_util.flatten_dict(shapes)
  return traverse_util.unflatten_dict(
    {path: draw(path, flat[path].shape) for path in sorted(flat)}
  )


def frequent_words(texts: Iterable[str]) -> list[str]:
  """The `MAX_WORDS` most frequent words, then by the alphabet."""
  count = collections.Counter(w for text in texts for w in text.split())
  return sorted(count, key=lambda w: (-count[w], w))[:MAX_WORDS]


def t5_tokenizer_files(captions: Sequence[str]) -> dict[str, bytes]:
  """A unigram tokenizer: words, then characters, then bytes."""
  normalizer = normalizers.Sequence(
    [
      normalizers.NFKC(),
      normalizers.Lowercase(),
      normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
      normalizers.Strip(),
    ]
  )
  words = frequent_words(
    " ".join(re.findall(r"\w+", normalizer.normalize_str(caption)))
    for caption in captions
  )
  pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
  pieces += [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
  pieces += [("▁", -10.0)] + [(chr(c), -10.0) for c in range(33, 127)]
  pieces += [(f"▁{word}", -1.0) for word in words]
  tokenizer = tokenizers.Tokenizer(
    models.Unigram(pieces, unk_id=2, byte_fallback=True)
  )
  tokenizer.normalizer = normalizer
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
  return {"tokenizer.json": tokenizer.to_str(pretty=True).encode()}


def clip_vocabulary(
  captions: Sequence[str],
) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Ids and merges under which every frequent word is one token."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
  ends = {START: 0, END: 1}
  pipeline = clip_pipeline(ends, [])
  words = frequent_words(
    " ".join(
      word
      for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(
        pipeline.normalizer.normalize_str(caption)
      )
    )
    for caption in captions
  )
  merges = []
  for word in words:
    # Earlier merges act first; later ones join what they leave, and so cannot
    # change an earlier word.
    parts = [*word[:-1], f"{word[-1]}</w>"]
    for pair in merges:
      parts = _merge(parts, pair)
    while len(parts) > 1:
      merges.append((parts[0], parts[1]))
      parts = _merge(parts, merges[-1])
  tokens += ["".join(pair) for pair in merges]
  tokens += [START, END]
  return {token: i for i, token in enumerate(tokens)}, merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
  """Joins every occurrence of a pair, from the left."""
  result = []
  for part in parts:
    if result and (result[-1], part) == pair:
      result[-1] += part
    else:
      result.append(part)
  return result


def clip_tokenizer_files(
  vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], pad: str
) -> dict[str, bytes]:
  """The files of a CLIP tokenizer that pads with `pad`."""
  special = {"bos_token": START, "eos_token": END, "unk_token": END}
  contents = {
    "vocab.json": json.dumps(vocabulary, ensure_ascii=False, indent=0),
    "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n",
    "special_tokens_map.json": json.dumps(special | {"pad_token": pad}),
  }
  return {file: content.encode() for file, content in contents.items()}
