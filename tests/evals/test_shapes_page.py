"""docs/shapes.md says what the summaries beside it say."""

import json
import pathlib
import re

import pytest

from pyramid_jax.evals.shapes_report import rate_of, short, side_by_side

DOCS = pathlib.Path(__file__).parents[2] / "docs"
TRUE, MADE = "true clips after the VAE", "generated"
LONG = "true clips after the VAE of vae_long"
FRAME, NINE = "from the true first frame", "from the first 9 true frames"
SOME_TRUE = "the first 256 true clips after the VAE"
SOME_MADE = "the first 128 generated"
KEPT = json.loads((DOCS / "shapes.json").read_text())
PAGE = (DOCS / "shapes.md").read_text().replace("**", "")
PROSE = " ".join(PAGE.split())


def summary(name):
  return KEPT[name]["summary"]


def whole(name, kind, lost=False):
  """Percent of a class that is right in all, or is not."""
  rate = rate_of(summary(name)["classes"][kind])
  return f"{100 * abs(lost - rate.hits / rate.n):.0f}%"


def test_the_table_is_of_the_kept_summaries():
  columns = {name: summary(name) for name in (TRUE, MADE, FRAME)}
  assert f"\n{side_by_side(columns)}\n" in PAGE


@pytest.mark.parametrize(
  "name, keys, text",
  [
    (FRAME, ["given kept"], "From a true first frame {} of the clips keep"),
    (NINE, ["given kept"], "from the first 9 frames, {} keep it"),
    (NINE, ["all correct"], "keep it, and {} are right in all, read from"),
    (NINE, ["attributes", "speed"], "tell speeds less well: {}."),
    (LONG, ["all correct"], "of all 512 clips is read right, {}, of unseen"),
    (LONG, ["unasked"], "counts as something unasked in {} of them, which"),
    (SOME_MADE, ["all correct"], "128 captions, generated without it, {} are"),
    (SOME_TRUE, ["all correct"], "27.8 dB and {} of the same clips"),
  ],
)
def test_rates_in_the_text_are_those_of_the_kept_summaries(name, keys, text):
  found = summary(name)
  for key in keys:
    found = found[key]
  assert text.format(short(rate_of(found))) in PROSE


def test_a_vae_with_more_time_loses_no_attribute_and_ours_shape_alone():
  met = lambda name: {
    attribute
    for attribute, rate in summary(name)["attributes"].items()
    if rate["hits"] >= 0.99 * rate["n"]
  }
  assert met(LONG) == set(summary(LONG)["attributes"])
  assert met(LONG) - met(TRUE) == {"shape"}
  assert summary(TRUE)["unasked"]["hits"] == 0


def test_shares_of_colors_and_shapes_are_those_of_the_kept_summaries():
  lost = lambda kind: whole(TRUE, kind, lost=True)
  for shape, several in (
    ("square", "squares"),
    ("cross", "crosses"),
    ("triangle", "triangles"),
    ("circle", "circles"),
  ):
    assert f"{several} {lost(f'shape: {shape}')}" in PROSE
  assert f"small ones {lost('size: small')}, of large ones" in PROSE
  assert f"of large ones {lost('size: large')}." in PROSE
  blue, green, white, gray, black = (
    whole(MADE, kind)
    for kind in ("color: blue", "color: green", "color: white",
                 "background: gray", "background: black")
  )  # fmt: skip
  assert f"({blue} and {green} all correct; white {white})" in PROSE
  assert f"gray backgrounds ({gray}; black {black})" in PROSE
  blue, green, gray = (
    whole(TRUE, kind)
    for kind in ("color: blue", "color: green", "background: gray")
  )
  assert f"most ({blue}, {green} and {gray} right after it)" in PROSE


def test_summaries_name_what_they_are_of_and_no_place_of_a_machine():
  for name, kept in KEPT.items():
    assert set(kept) == {"settings", "summary"}
    settings = kept["settings"]
    run = settings.get("vae") or settings["workdir"]
    assert re.fullmatch(r"runs/shapes_cpu/\w+", run), name
    for rate in kept["summary"]["attributes"].values():
      low, high = rate_of(rate).interval
      assert (low, high) == pytest.approx((rate["low"], rate["high"]))
