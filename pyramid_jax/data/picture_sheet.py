"""A sheet of pictures with what is to be said of each."""

import dataclasses
import textwrap
from collections.abc import Iterable

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageOps

from pyramid_jax.data.lettering import draw_text

COLUMNS, SIDE, GAP = 6, 160, 14  # pictures a line, pixels
LETTERS, LINE, WIDTH = 11, 14, 27  # pixels of both, characters of a line
LINES = {"name": 1, "caption": 3, "note": 3}
RED, GRAY = (190, 20, 20), (110, 110, 110)


@dataclasses.dataclass(frozen=True)
class Picture:
  """One of the sheet.

  Attributes:
    image: [H, W, 3] uint8, at most 160 a side; None: there is none.
    name: above the caption.
    caption: what it shows.
    note: what is to be known of it.
    marked: whether the note is red.
  """

  image: np.ndarray | None
  name: str
  caption: str
  note: str
  marked: bool = False


def draw_sheet(pictures: Iterable[Picture]) -> PIL.Image.Image:
  """All pictures, from left to right; text that is too long ends in "..."."""
  pictures = list(pictures)
  step_x = SIDE + GAP
  step_y = SIDE + sum(LINES.values()) * LINE + GAP
  rows = -(-len(pictures) // COLUMNS)
  size = COLUMNS * step_x + GAP, max(rows, 1) * step_y + GAP
  sheet = PIL.Image.new("RGB", size, "white")
  draw = PIL.ImageDraw.Draw(sheet)
  for i, picture in enumerate(pictures):
    x = GAP + i % COLUMNS * step_x
    y = GAP + i // COLUMNS * step_y
    if picture.image is None:
      draw.rectangle((x, y, x + SIDE, y + SIDE), (245, 235, 235), RED, 2)
      middle = x + SIDE // 2, y + SIDE // 2
      draw_text(draw, middle, "left out", RED, LETTERS, "mm")
    else:
      image = PIL.ImageOps.contain(
        PIL.Image.fromarray(picture.image), (SIDE, SIDE)
      )
      sheet.paste(image, (x, y + SIDE - image.height))
    y += SIDE + 2
    for name, color in (
      ("name", GRAY),
      ("caption", (0, 0, 0)),
      ("note", RED if picture.marked else GRAY),
    ):
      lines = textwrap.wrap(
        getattr(picture, name), WIDTH, max_lines=LINES[name], placeholder=" ..."
      )
      for line in lines:
        draw_text(draw, (x, y), line, color, LETTERS)
        y += LINE
  return sheet
