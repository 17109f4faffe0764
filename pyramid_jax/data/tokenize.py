"""Prompts as token ids, from the tokenizer files of a local folder.

Legend: B prompts, M tokens.
"""

import json
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from pyramid_jax.config import UserError

log = logging.getLogger(__name__)

# All that a tokenizer folder may hold; other files in it mean nothing to us.
FILES = (
  "tokenizer.json",
  "spiece.model",
  "vocab.json",
  "merges.txt",
  "tokenizer_config.json",
  "special_tokens_map.json",
)

SHOWN = 200  # characters of what is cut off a prompt

# The released CLIP tokenizers straighten quotes before anything else.
QUOTES = str.maketrans("‘’‚‛“”„‟", "''''\"\"\"\"")

CLIP_WORDS = (
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|"
  r"[\p{N}]|[^\s\p{L}\p{N}]+"
)


class TokenizerError(UserError):
  """A tokenizer folder that cannot be used; the message says why."""


class T5Tokenizer:
  """T5 token ids of prompts, at most `limit` of them, the end token included.

  Attributes:
    files: name -> content of the files that define it.
    vocabulary: number of ids it may give.

  Raises:
    TokenizerError: no tokenizer.json or spiece.model in the folder, one that
      cannot be read, or only spiece.model without sentencepiece installed.
  """

  def __init__(self, folder: str | os.PathLike, limit: int = 128):
    self.limit = limit
    self.files = _read(folder)
    if "tokenizer.json" in self.files:
      self._tokenizer = _from_json(folder, self.files["tokenizer.json"], limit)
      self._encode = self._encode_json
      self.vocabulary = self._tokenizer.get_vocab_size()
    elif "spiece.model" in self.files:
      self._tokenizer = _sentencepiece(folder, self.files["spiece.model"])
      self._encode = self._encode_sentencepiece
      self.vocabulary = self._tokenizer.get_piece_size()
    else:
      raise TokenizerError(
        f"{folder} holds neither tokenizer.json nor spiece.model; a T5 "
        "tokenizer needs one of them."
      )

  def __call__(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int32 [B, limit]; the mask is 0 at padding.

    Warns of every prompt that does not fit and shows what is left out.
    """
    ids_BM = np.zeros((len(prompts), self.limit), np.int32)
    mask_BM = np.zeros_like(ids_BM)
    for row, prompt in enumerate(prompts):
      ids, cut = self._encode(prompt)
      if cut:
        shown = cut if len(cut) <= SHOWN else f"{cut[:SHOWN]} ..."
        log.warning(
          "prompt cut at %d T5 tokens; left out: %r", self.limit, shown
        )
      ids_BM[row, : len(ids)] = ids
      mask_BM[row, : len(ids)] = 1
    return ids_BM, mask_BM

  def _encode_json(self, prompt: str) -> tuple[list[int], str]:
    """Ids that fit, and the text that does not."""
    encoding = self._tokenizer.encode(prompt)
    if not encoding.overflowing:
      return encoding.ids, ""
    rest = encoding.overflowing[0]
    start = min(
      span[0]
      for span, special in zip(
        rest.offsets, rest.special_tokens_mask, strict=True
      )
      if not special
    )
    return encoding.ids, prompt[start:].strip()

  def _encode_sentencepiece(self, prompt: str) -> tuple[list[int], str]:
    ids = self._tokenizer.encode(prompt)
    keep = self.limit - 1
    cut = self._tokenizer.decode(ids[keep:]) if len(ids) > keep else ""
    return [*ids[:keep], self._tokenizer.eos_id()], cut


class CLIPTokenizer:
  """CLIP token ids of prompts: start, words, end, padding up to `limit`.

  What does not fit is left out silently, as in the released code: the T5
  features carry the whole prompt.

  Attributes:
    files: name -> content of the files that define it.
    vocabulary: number of ids it may give.

  Raises:
    TokenizerError: neither tokenizer.json nor vocab.json and merges.txt in the
      folder, or one that cannot be read.
  """

  def __init__(self, folder: str | os.PathLike, limit: int = 77):
    self.limit = limit
    self.files = _read(folder)
    if "tokenizer.json" in self.files:
      self._tokenizer = _from_json(folder, self.files["tokenizer.json"], limit)
    elif {"vocab.json", "merges.txt"} <= self.files.keys():
      self._tokenizer = _clip_from_words(folder, self.files)
      self._tokenizer.enable_truncation(limit)
    else:
      raise TokenizerError(
        f"{folder} holds neither tokenizer.json nor vocab.json with "
        "merges.txt; a CLIP tokenizer needs one of the two."
      )
    self.vocabulary = self._tokenizer.get_vocab_size()
    pad = _special(folder, self.files)["pad_token"]
    self.pad = self._tokenizer.token_to_id(pad)
    if self.pad is None:
      raise TokenizerError(
        f"{folder}: the padding token {pad!r} is not in the vocabulary."
      )

  def __call__(self, prompts: Sequence[str]) -> np.ndarray:
    """Ids, int32 [B, limit]."""
    ids_BM = np.full((len(prompts), self.limit), self.pad, np.int32)
    for row, prompt in enumerate(prompts):
      ids = self._tokenizer.encode(prompt.translate(QUOTES)).ids
      ids_BM[row, : len(ids)] = ids
    return ids_BM

  def lengths(self, ids_BM: np.ndarray) -> np.ndarray:
    """Of ids, for each prompt [B] the tokens up to its end token.

    Where the end token is the padding too, or stands last, one too many.
    """
    used = ids_BM != self.pad
    return np.minimum(used.shape[1] - used[:, ::-1].argmax(1) + 1, self.limit)


def _read(folder: str | os.PathLike) -> dict[str, bytes]:
  """The files of a tokenizer folder that exist."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise TokenizerError(
      f"{folder} does not exist; the folder must have the layout of a Hugging "
      "Face snapshot."
    )
  return {f: (folder / f).read_bytes() for f in FILES if (folder / f).is_file()}


def _from_json(
  folder: str | os.PathLike, content: bytes, limit: int
) -> tokenizers.Tokenizer:
  try:
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
  except Exception as error:  # tokenizers raises nothing narrower
    raise TokenizerError(
      f"{folder}/tokenizer.json cannot be read: {error}."
    ) from error
  tokenizer.no_padding()
  tokenizer.enable_truncation(limit)
  return tokenizer


def _sentencepiece(folder: str | os.PathLike, content: bytes):
  try:
    import sentencepiece
  except ImportError as error:
    raise TokenizerError(
      f"{folder} holds only spiece.model, which needs the package "
      "sentencepiece: pip install sentencepiece, or put the tokenizer.json "
      "of the same tokenizer beside it."
    ) from error
  return sentencepiece.SentencePieceProcessor(model_proto=content)


def _special(
  folder: str | os.PathLike, files: dict[str, bytes]
) -> dict[str, str]:
  """The special tokens that the files name, by role."""
  found = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
  for file in ("special_tokens_map.json", "tokenizer_config.json"):
    try:
      tokens = json.loads(files.get(file, b"{}"))
    except ValueError as error:
      raise TokenizerError(f"{folder}/{file} is not JSON: {error}.") from error
    for role, token in tokens.items():
      if role in ("bos_token", "eos_token", "pad_token", "unk_token") and token:
        found[role] = token["content"] if isinstance(token, dict) else token
  found.setdefault("pad_token", found["eos_token"])
  found.setdefault("unk_token", found["eos_token"])
  return found


def _clip_from_words(
  folder: str | os.PathLike, files: dict[str, bytes]
) -> tokenizers.Tokenizer:
  """A CLIP tokenizer from vocab.json and merges.txt."""
  special = _special(folder, files)
  lines = files["merges.txt"].decode().splitlines()
  merges = [
    tuple(line.split(" "))
    for line in lines
    if line and not line.startswith("#version")
  ]
  try:
    tokenizer = clip_pipeline(
      json.loads(files["vocab.json"]),
      merges,
      special["bos_token"],
      special["eos_token"],
      special["unk_token"],
    )
  except Exception as error:  # tokenizers raises nothing narrower
    raise TokenizerError(
      f"{folder}: vocab.json and merges.txt do not fit together: {error}."
    ) from error
  # A special token is found inside the text too: "!" is CLIP-G's padding, and
  # "hello!" ends with it.
  tokenizer.add_special_tokens(sorted(set(special.values())))
  return tokenizer


def clip_pipeline(
  vocabulary: dict[str, int],
  merges: Sequence[tuple[str, str]],
  start: str = "<|startoftext|>",
  end: str = "<|endoftext|>",
  unknown: str = "<|endoftext|>",
) -> tokenizers.Tokenizer:
  """CLIP's tokenizer: lower case, words, then merges of bytes up to "</w>"."""
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocabulary,
      list(merges),
      unk_token=unknown,
      continuing_subword_prefix="",
      end_of_word_suffix="</w>",
      fuse_unk=False,
    )
  )
  tokenizer.normalizer = normalizers.Sequence(
    [
      normalizers.NFC(),
      normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
      normalizers.Lowercase(),
    ]
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(
        tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True
      ),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{start} $A {end}",
    special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])],
  )
  return tokenizer
