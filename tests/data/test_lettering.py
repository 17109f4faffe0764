"""Letters on pictures are themselves where a font has them."""

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from pyramid_jax.data import lettering


def fonts(*letters):
  """Fonts of these letters; the rest of them are not there."""
  return lambda i, x: i < len(letters) and x in letters[i]


@pytest.mark.parametrize(
  "text, has, index, shown",
  [
    ("ab", fonts("ab", "ab"), 0, "ab"),
    ("aü", fonts("aub", "aüb"), 1, "aü"),
    ("au\u0308", fonts("au", "aü"), 1, "aü"),  # the mark apart
    ("aü中", fonts("au", "aü", "中"), 1, "aü?"),
    ("aü中", fonts("au"), 0, "au?"),
    ("中", fonts(), 0, "?"),
    ("", fonts(), 0, ""),
  ],
)
def test_the_font_that_has_most_letters_is_taken(text, has, index, shown):
  assert lettering.fitted(text, has) == (index, shown)


def drawn(text, size=13):
  image = PIL.Image.new("L", (120, 24), "white")
  lettering.draw_text(PIL.ImageDraw.Draw(image), (2, 2), text, "black", size)
  return np.asarray(image)


def test_plain_text_is_in_the_font_of_before():
  image = PIL.Image.new("L", (120, 24), "white")
  font = PIL.ImageFont.load_default(13)
  PIL.ImageDraw.Draw(image).text((2, 2), "a red circle", "black", font)
  np.testing.assert_array_equal(drawn("a red circle"), np.asarray(image))


def test_letters_beyond_ascii_are_told_from_one_another():
  """With the system's fonts or, where there are none, as u and o."""
  assert not np.array_equal(drawn("ü"), drawn("ö"))


def test_without_other_fonts_no_box_is_drawn(monkeypatch):
  monkeypatch.setattr(lettering, "SYSTEM", ("no such font.ttf",))
  lettering._font.cache_clear()
  lettering._has.cache_clear()
  try:
    np.testing.assert_array_equal(drawn("ü 中"), drawn("u ?"))
  finally:
    lettering._font.cache_clear()
    lettering._has.cache_clear()
