"""The tiny text encoders tell words apart and are the same everywhere."""

import numpy as np
import pytest

from pyramid_jax.convert.snapshot import SnapshotError
from pyramid_jax.convert.text_folder import load_text_encoder
from pyramid_jax.convert.tiny_text import (
  clip_vocabulary,
  write_tiny_text_encoders,
)

WORDS = ("red", "blue", "green", "circle", "square", "left", "right")
CAPTIONS = [
  f"a {size} {colour} {shape} moves {way} on a {ground} background"
  for size in ("small", "large")
  for colour, ground in (("red", "blue"), ("green", "white"))
  for shape in ("circle", "square")
  for way in ("left", "right")
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tiny") / "text"
  write_tiny_text_encoders(folder, CAPTIONS)
  return load_text_encoder(folder, dtype="float32", batch=16)


def cosine(a, b):
  return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_widths_are_what_was_asked_for(encoder):
  assert encoder.text_dim == encoder.pooled_dim == 64


def test_words_have_unrelated_t5_features(encoder):
  features = [
    text[2] for text, _ in encoder.encode([f"a small {w}" for w in WORDS])
  ]
  table = np.array([[cosine(a, b) for a in features] for b in features])
  print(np.round(table, 2))
  others = table[~np.eye(len(WORDS), dtype=bool)]
  # Independent directions in 64 dimensions have cosines of 0.13; what two
  # layers of attention add from the shared words lifts them a little.
  assert others.max() < 0.6 and others.mean() < 0.3


def test_what_words_mean_adds_up(encoder):
  """As encoders do that were trained: else an unseen pair is a new word."""
  nouns = [f"a small {c} {s}" for c in ("red", "blue") for s in
           ("circle", "square")]  # fmt: skip
  for part in range(2):
    x = [prompt[part] for prompt in encoder.encode(nouns)]
    together = np.square(x[0] - x[1] - x[2] + x[3]).mean()
    alone = np.square(x[0] - x[1]).mean() + np.square(x[0] - x[2]).mean()
    assert together < 0.05 * alone, (part, together / alone)


def test_features_tell_which_color_is_whose(encoder):
  whose = [
    "a red circle while a blue square", "a blue circle while a red square"
  ]  # fmt: skip
  (one, _), (other, _) = encoder.encode(whose)
  of_circle = one[2] - other[2]
  assert np.abs(of_circle).max() > 0.1, np.abs(of_circle).max()


@pytest.mark.parametrize(
  ("old", "new"), [("red", "green"), ("small", "large"), ("left", "right")]
)
def test_captions_that_differ_in_a_word_differ_there(encoder, old, new):
  caption = CAPTIONS[0]
  (text, pooled), (text_2, pooled_2) = encoder.encode(
    [caption, caption.replace(old, new)]
  )
  place = caption.split().index(old)
  cosines = [cosine(a, b) for a, b in zip(text, text_2, strict=True)]
  print(
    f"{old} -> {new}: {np.round(cosines, 2)}, {cosine(pooled, pooled_2):.3f}"
  )
  assert np.argmin(cosines) == place and cosines[place] < 0.5
  # One word of eleven moves the vector by more than a tenth of its length.
  assert np.linalg.norm(pooled - pooled_2) > 0.1 * np.linalg.norm(pooled)


def test_features_have_unit_size(encoder):
  encoded = encoder.encode(CAPTIONS)
  text = np.concatenate([text for text, _ in encoded])
  assert 0.9 < text.std() < 1.1
  assert 0.7 < np.stack([pooled for _, pooled in encoded]).std() < 1.4


def test_known_words_are_one_token_and_others_are_spelled(encoder):
  t5 = encoder.tokenizers["t5"]._tokenizer
  assert t5.encode("A RED circle,").tokens == [
    "▁a", "▁red", "▁circle", ",", "</s>",
  ]  # fmt: skip
  assert t5.encode("ox é").tokens == [
    "▁", "o", "x", "▁", "<0xC3>", "<0xA9>", "</s>",
  ]  # fmt: skip
  assert t5.token_to_id("<unk>") not in t5.encode("日本 ½ 🎉").ids
  clip = encoder.tokenizers["clip_l"]._tokenizer
  for word in " ".join(CAPTIONS).split():
    assert clip.encode(word).tokens[1:-1] == [f"{word}</w>"]


def test_every_word_is_one_merge_chain():
  """Words that share parts do not break each other."""
  words = ["banana", "bandana", "ban", "an", "nab", "a", "anna"]
  vocabulary, merges = clip_vocabulary([" ".join(words)])
  assert len(set(vocabulary.values())) == len(vocabulary)
  assert len(set(merges)) == len(merges)
  assert all(f"{word}</w>" in vocabulary for word in words)


def test_the_same_captions_and_seed_give_the_same_files(tmp_path):
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    write_tiny_text_encoders(tmp_path / name, CAPTIONS, seed=seed, width=32)

  def contents(name):
    root = tmp_path / name
    return {
      p.relative_to(root): p.read_bytes()
      for p in root.rglob("*")
      if p.is_file()
    }

  assert contents("a") == contents("b")
  assert contents("a").keys() == contents("c").keys()
  assert contents("a") != contents("c")
  with pytest.raises(SnapshotError, match="already exists"):
    write_tiny_text_encoders(tmp_path / "a", CAPTIONS)
