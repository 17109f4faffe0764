"""What docs/scale.json keeps is of the runs that the configs describe today."""

import dataclasses
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scale(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import scale

  return scale


def test_every_cell_is_kept_with_the_settings_of_its_config(scale):
  """`python benchmarks/scale.py --compile=8` makes what is not."""
  every = [
    *scale.cells(),
    *(c for machine in scale.MACHINES for c in scale.choices(machine)),
    *scale.largest(),
  ]
  kept = scale.kept()
  assert {cell.key for cell in every} == kept.keys()
  stale = {c.key for c in every if kept[c.key]["settings"] != c.settings}
  assert not stale


@pytest.mark.parametrize(
  "part, name, value",
  [
    ("model", "mlp_ratio", 3),
    ("model", "heads", 12),
    ("latents", "rows", 256),
    ("latents", "text_tokens", 512),
    ("train", "microbatches", 2),
    ("flow", "stages", 2),
    ("optimizer", "method", "muon"),
  ],
)
def test_what_was_compiled_of_other_settings_counts_as_none(
  scale, monkeypatch, part, name, value
):
  cell = scale.Cell("mmdit", "image", "v6e-256")
  assert scale.known(cell)
  config = cell.config
  changed = dataclasses.replace(getattr(config, part), **{name: value})
  config = dataclasses.replace(config, **{part: changed})
  monkeypatch.setattr(scale.Cell, "config", config)
  assert cell.key in scale.kept() and not scale.known(cell)
  assert scale.planned(cell) is None
