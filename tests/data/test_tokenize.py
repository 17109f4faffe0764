"""Tokenizers follow their files: special tokens, limits, what is cut."""

import json
import sys
import types

import numpy as np
import pytest
import tokenizers

from pyramid_jax.convert.tiny_text import (
  END,
  START,
  clip_tokenizer_files,
  clip_vocabulary,
  t5_tokenizer_files,
)
from pyramid_jax.data.tokenize import (
  CLIPTokenizer,
  T5Tokenizer,
  TokenizerError,
)

CAPTIONS = ["a small red circle moves left", "a large blue circle can't move"]
VOCABULARY, MERGES = clip_vocabulary(CAPTIONS)
START_ID, END_ID = VOCABULARY[START], VOCABULARY[END]


def folder(path, files):
  path.mkdir(exist_ok=True)
  for name, content in files.items():
    (path / name).write_bytes(content)
  return path


def clip(path, pad=END, limit=77):
  files = clip_tokenizer_files(VOCABULARY, MERGES, pad)
  return CLIPTokenizer(folder(path, files), limit)


def word_ids(*words):
  return [VOCABULARY[f"{word}</w>"] for word in words]


def test_clip_prompts_are_start_words_end_padding(tmp_path):
  ids = clip(tmp_path, limit=9)(["A  small\tRED circle", ""])
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(
    ids,
    [
      [START_ID, *word_ids("a", "small", "red", "circle"), *[END_ID] * 4],
      [START_ID, *[END_ID] * 8],
    ],
  )


def test_clip_padding_is_the_files(tmp_path):
  """CLIP-G pads with "!", which then is that token inside a prompt too."""
  ids = clip(tmp_path, pad="!", limit=6)(["red!"])
  np.testing.assert_array_equal(
    ids, [[START_ID, *word_ids("red"), 0, END_ID, 0, 0]]
  )
  ids = clip(tmp_path, limit=6)(["red!"])
  np.testing.assert_array_equal(
    ids, [[START_ID, *word_ids("red", "!"), *[END_ID] * 3]]
  )


def test_clip_truncation_keeps_the_end_token_silently(tmp_path, caplog):
  ids = clip(tmp_path)(["red " * 200])
  np.testing.assert_array_equal(
    ids[0], [START_ID, *word_ids(*["red"] * 75), END_ID]
  )
  assert not caplog.records


def test_clip_splits_contractions_digits_and_straightens_quotes(tmp_path):
  tokenizer = clip(tmp_path, limit=12)
  plain = tokenizer(['can\'t 42 "x"'])
  np.testing.assert_array_equal(plain, tokenizer(["can’t 42 “x”"]))
  pieces = [k for i in plain[0] for k, v in VOCABULARY.items() if v == i]
  assert pieces[1:8] == [
    "can</w>", "'t</w>", "4</w>", "2</w>", '"</w>', "x</w>", '"</w>',
  ]  # fmt: skip


def test_clip_files_of_both_forms_agree(tmp_path):
  words = clip(tmp_path / "words", pad="!")
  files = clip_tokenizer_files(VOCABULARY, MERGES, "!")
  whole = folder(
    tmp_path / "whole",
    {
      "tokenizer.json": words._tokenizer.to_str().encode(),
      "special_tokens_map.json": files["special_tokens_map.json"],
    },
  )
  prompts = [*CAPTIONS, "unseen naïve 日本!", "", "red " * 100]
  np.testing.assert_array_equal(CLIPTokenizer(whole)(prompts), words(prompts))


def test_the_padding_token_may_be_described_or_missing(tmp_path):
  files = clip_tokenizer_files(VOCABULARY, MERGES, "!")
  del files["special_tokens_map.json"]
  described = {"pad_token": {"content": "!", "lstrip": False}}
  files["tokenizer_config.json"] = json.dumps(described).encode()
  assert CLIPTokenizer(folder(tmp_path / "described", files)).pad == 0
  del files["tokenizer_config.json"]
  assert CLIPTokenizer(folder(tmp_path / "missing", files)).pad == END_ID


def test_t5_ids_end_with_the_end_token_and_the_mask_covers_them(tmp_path):
  tokenizer = T5Tokenizer(folder(tmp_path, t5_tokenizer_files(CAPTIONS)), 8)
  ids, mask = tokenizer(["a small red circle", ""])
  assert ids.dtype == mask.dtype == np.int32
  np.testing.assert_array_equal(mask, [[1] * 5 + [0] * 3, [1] + [0] * 7])
  assert ids[0, 4] == ids[1, 0] == 1
  assert (ids[mask == 0] == 0).all()
  pieces = [tokenizer._tokenizer.id_to_token(i) for i in ids[0, :4]]
  assert pieces == ["▁a", "▁small", "▁red", "▁circle"]


def test_t5_truncation_warns_and_shows_what_is_cut(tmp_path, caplog):
  tokenizer = T5Tokenizer(folder(tmp_path, t5_tokenizer_files(CAPTIONS)), 4)
  ids, mask = tokenizer(["A small red\nCircle moves left", "a small red"])
  assert mask.all() and (ids[:, 3] == 1).all()
  np.testing.assert_array_equal(ids[0], ids[1])
  (record,) = caplog.records
  message = record.getMessage()
  assert message == "prompt cut at 4 T5 tokens; left out: 'Circle moves left'"


def test_settings_stored_in_a_file_do_not_pad_or_cut(tmp_path):
  files = t5_tokenizer_files(CAPTIONS)
  stored = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
  stored.enable_padding(length=20)
  stored.enable_truncation(2)
  files["tokenizer.json"] = stored.to_str().encode()
  _, mask = T5Tokenizer(folder(tmp_path, files))(["a small red circle"])
  assert mask.shape == (1, 128) and mask.sum() == 5


def test_a_lone_sentencepiece_model_needs_its_package(tmp_path, monkeypatch):
  folder(tmp_path, {"spiece.model": b"model"})
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  with pytest.raises(TokenizerError, match="pip install sentencepiece"):
    T5Tokenizer(tmp_path)


class Pieces:
  """Stands in for sentencepiece: a character is a piece, "a" is 2."""

  def __init__(self, model_proto):
    assert model_proto == b"model"

  def encode(self, text):
    return [ord(c) - ord("a") + 2 for c in text]

  def decode(self, ids):
    return "".join(chr(i - 2 + ord("a")) for i in ids)

  def eos_id(self):
    return 1

  def get_piece_size(self):
    return 28


def test_a_sentencepiece_model_is_cut_alike(tmp_path, monkeypatch, caplog):
  folder(tmp_path, {"spiece.model": b"model"})
  module = types.SimpleNamespace(SentencePieceProcessor=Pieces)
  monkeypatch.setitem(sys.modules, "sentencepiece", module)
  tokenizer = T5Tokenizer(tmp_path, 4)
  ids, mask = tokenizer(["abcdef", "abc", "a"])
  np.testing.assert_array_equal(ids, [[2, 3, 4, 1], [2, 3, 4, 1], [2, 1, 0, 0]])
  np.testing.assert_array_equal(mask.sum(1), [4, 4, 2])
  (record,) = caplog.records
  assert record.getMessage().endswith("left out: 'def'")
  assert tokenizer.vocabulary == 28


@pytest.mark.parametrize(
  ("build", "files", "message"),
  [
    (T5Tokenizer, {}, "neither tokenizer.json nor spiece.model"),
    (T5Tokenizer, {"tokenizer.json": b"{"}, "tokenizer.json cannot be read"),
    (CLIPTokenizer, {"vocab.json": b"{}"}, "neither tokenizer.json nor vocab"),
    (
      CLIPTokenizer,
      {"vocab.json": b'{"a": 0}', "merges.txt": b"a b\n"},
      "do not fit together",
    ),
    (
      CLIPTokenizer,
      {
        **clip_tokenizer_files(VOCABULARY, MERGES, END),
        "special_tokens_map.json": b"[",
      },
      "special_tokens_map.json is not JSON",
    ),
  ],
)
def test_broken_folders_are_refused(tmp_path, build, files, message):
  with pytest.raises(TokenizerError, match=message):
    build(folder(tmp_path, files))


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(TokenizerError, match="tokenizer_9 does not exist"):
    T5Tokenizer(tmp_path / "tokenizer_9")
