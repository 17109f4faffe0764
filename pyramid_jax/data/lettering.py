"""Text on pictures, in a font that has its letters.

The font that Pillow brings has ASCII alone; others are taken from the system.
"""

import functools
import unicodedata
from collections.abc import Callable

import PIL.ImageDraw
import PIL.ImageFont

# As Pillow finds them by name in the folders where systems keep their fonts.
SYSTEM = (
  "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc",
  "NotoSansDevanagari-Regular.ttf", "NotoSansArabic-Regular.ttf",
  "Arial Unicode.ttf", "arial.ttf",
)  # fmt: skip
NO_LETTER = "\uffff"  # never one, so that any font shows what stands for none

Font = PIL.ImageFont.FreeTypeFont


def draw_text(
  draw: PIL.ImageDraw.ImageDraw,
  place: tuple[float, float],
  text: str,
  color: str | tuple[int, int, int],
  size: int,
  anchor: str | None = None,
) -> None:
  """Writes a line; letters that no one font has lose their marks, or are "?".

  Args:
    draw: of the picture.
    place: x and y, of the upper left corner or as `anchor` says.
    text: one line.
    color: of the letters.
    size: of the font, in pixels.
    anchor: as in Pillow.
  """
  index, shown = fitted(text, lambda i, letter: _has(size, i, letter))
  draw.text(place, shown, color, _font(size, index), anchor)


def fitted(text: str, has: Callable[[int, str], bool]) -> tuple[int, str]:
  """The number of the font that lacks the fewest letters, and what it shows.

  Args:
    text: what is to be shown.
    has: (number of a font, letter) -> whether it has the letter; number 0 is
      Pillow's own font, the others are those of `SYSTEM`.
  """
  text = unicodedata.normalize("NFC", text)
  best, fewest = 0, None
  for index in range(1 + len(SYSTEM)):
    lacking = {x for x in text if not has(index, x)}
    if fewest is None or len(lacking) < len(fewest):
      best, fewest = index, lacking
    if not fewest:
      break
  return best, "".join(_plain(x, best, has) if x in fewest else x for x in text)


def _plain(letter: str, index: int, has: Callable[[int, str], bool]) -> str:
  """The letter without its marks if the font has that, else "?"."""
  base = unicodedata.normalize("NFD", letter)[0]
  return base if base != letter and has(index, base) else "?"


@functools.cache
def _font(size: int, index: int) -> Font | None:
  """Pillow's own font, or one of the system's if it is there."""
  if index == 0:
    return PIL.ImageFont.load_default(size)
  try:
    return PIL.ImageFont.truetype(SYSTEM[index - 1], size)
  except OSError:
    return None


@functools.cache
def _has(size: int, index: int, letter: str) -> bool:
  """Whether a font is there and draws the letter as itself."""
  font = _font(size, index)
  return font is not None and (
    letter.isspace() or _drawn(font, letter) != _drawn(font, NO_LETTER)
  )


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
  mask = font.getmask(letter)
  return mask.size, bytes(mask)
