"""Which clips are made together, and that none stays in memory."""

import dataclasses
import logging
import weakref

import jax
import numpy as np
import PIL.Image
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import (
  Config,
  ConfigError,
  FlowConfig,
  GenerateConfig,
  MeshConfig,
)
from pyramid_jax.generate import export
from pyramid_jax.generate.clips import (
  Request,
  generate_clips,
  generate_missing,
  model_calls,
)
from pyramid_jax.generate.phases import Part
from pyramid_jax.generate.pipeline import Pipeline
from tests.data import videos

FRAMES, SIDE = 33, 64
WHOLE = videos.numbered(FRAMES, SIDE, SIDE)


class Counting(Pipeline):
  """Streams frames that show their number; there is no model behind it.

  Attributes:
    asked: of each batch the numbers of its samples and of given frames.
    alive: units in memory, each time that another is asked for.
  """

  def __init__(self, **flow):
    options = GenerateConfig(
      height=SIDE, width=SIDE, frames=FRAMES, steps=(3, 2, 1)
    )
    config = Config(flow=FlowConfig(**flow), generate=options)
    part = Part(lambda: None, stays=False)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    super().__init__(config, part, part, part, mesh, config.vae)
    self.asked, self.alive = [], []

  def stream(self, prompts, *, first, given, **_):
    self.asked.append((first, 0 if given is None else given.shape[1]))
    made = []
    for start in range(-7, FRAMES, 8):
      self.alive.append(sum(unit() is not None for unit in made))
      part = WHOLE[max(start, 0) : start + 8]
      unit = np.stack([part] * len(prompts))
      made.append(weakref.ref(unit))
      yield unit


def requests(folder, *given, ending="mp4"):
  return [
    Request(f"prompt {i}", folder / f"{i}.{ending}", WHOLE[:n] if n else None)
    for i, n in enumerate(given)
  ]


def test_clips_that_go_on_from_equally_many_frames_are_made_together(tmp_path):
  pipeline, done = Counting(), []
  generate_clips(
    pipeline, requests(tmp_path, 9, 17, 9, 0, 9), batch=2, unit_done=done.append
  )
  assert pipeline.asked == [([0, 2], 9), ([4], 9), ([1], 17), ([3], 0)]
  assert sum(done) == 5 * FRAMES
  for i in range(5):
    frames, made = export.read_mp4(tmp_path / f"{i}.mp4")
    assert videos.numbers(frames) == list(range(FRAMES))
    assert (made["prompt"], made["sample"]) == (f"prompt {i}", i)


def test_a_clip_says_what_it_goes_on_from(tmp_path):
  given, free = requests(tmp_path, 9, 0)
  given = dataclasses.replace(given, source="cat.mp4")
  generate_clips(Counting(), [given, free])
  made = [export.read_mp4(r.path)[1] for r in (given, free)]
  assert [m.get("given") for m in made] == ["cat.mp4", None]


def test_a_request_that_cannot_be_met_is_refused_before_any_work(tmp_path):
  pipeline = Counting()
  with pytest.raises(ConfigError, match="33 given frames leave nothing"):
    generate_clips(pipeline, requests(tmp_path, 9, 33), batch=1)
  assert not pipeline.asked and not list(tmp_path.iterdir())


def test_frames_that_are_written_do_not_stay_in_memory(tmp_path):
  pipeline = Counting()
  sheet = tmp_path / "sheet.png"
  generate_clips(pipeline, requests(tmp_path, 0, 0), sheet=sheet)
  # the one before is still in the hands of the loop that writes it
  assert len(pipeline.alive) == 5 and max(pipeline.alive) == 1


def test_a_sheet_shows_what_it_would_of_whole_clips(tmp_path):
  sheet, whole = tmp_path / "sheet.png", tmp_path / "whole.png"
  clips = requests(tmp_path, 9, 0, 9)
  generate_clips(Counting(), clips, sheet=sheet)
  columns = [("generated", [WHOLE] * 3)]
  export.contact_sheet(whole, [clip.prompt for clip in clips], columns)
  np.testing.assert_array_equal(PIL.Image.open(sheet), PIL.Image.open(whole))


def test_a_gif_has_the_frames_of_all_units(tmp_path):
  generate_clips(Counting(), requests(tmp_path, 0, ending="gif"))
  with PIL.Image.open(tmp_path / "0.gif") as file:
    assert file.n_frames == FRAMES


def cut(path):
  path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("ending", ["mp4", "png"])
def test_clips_that_are_not_whole_are_made_again(tmp_path, ending, caplog):
  pipeline = Counting()
  todo = [
    dataclasses.replace(r, number=i)
    for i, r in enumerate(requests(tmp_path, 0, 0, 0, 0, ending=ending))
  ]
  make = lambda: generate_missing(pipeline, todo, seed=0, batch=2)
  with caplog.at_level(logging.WARNING):
    assert make() == 4 and make() == 0 and not caplog.records
    whole = [request.path.read_bytes() for request in todo]
    cut(todo[1].path)
    todo[2].path.write_bytes(b"")
    todo[3].path.unlink()
    pipeline.asked.clear()
    assert make() == 3
  assert pipeline.asked == [([1, 2], 0), ([3], 0)]
  assert [request.path.read_bytes() for request in todo] == whole
  assert [r.getMessage() for r in caplog.records] == [
    f"{todo[i].path} is damaged; it is made again" for i in (1, 2)
  ]
  assert make() == 0


@pytest.mark.parametrize(
  "per_unit, given, calls",
  [
    # 5 units: 6 steps of the first, 30 of every other
    (1, [0], 6 + 4 * 30),
    (1, [0, 0, 0], 2 * (6 + 4 * 30)),
    (1, [1, 17], 4 * 30 + 2 * 30),
    # 3 units
    (2, [0], 6 + 2 * 30),
    (2, [17, 17, 1], 30 + 2 * 30),
  ],
)
def test_calls_of_the_transformer_are_those_of_what_is_generated(
  tmp_path, per_unit, given, calls
):
  pipeline = Counting(frames_per_unit=per_unit)
  todo = requests(tmp_path, *given)
  assert model_calls(pipeline, todo, 2, pipeline.options()) == calls
