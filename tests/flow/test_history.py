"""Which frames at which resolution, their positions, and what is not seen."""

import numpy as np
import pytest

from pyramid_jax.flow import history, resample
from tests import reference

FILES = reference.names("noise_history")
UNITS = [
  (u, k, f) for f in (1, 2, 3) for u in (0, 1, 2, 3, 7) for k in range(4)
]


@pytest.mark.parametrize("name", FILES)
def test_clips_are_those_of_the_released_code(name):
  file = reference.load(name)
  per_unit = file.config["pipe"].get("frame_per_unit", 1)
  sizes = {4: 0, 8: 1, 16: 2}  # latent height -> level
  for stage, units in enumerate(file.config["case"]["units"]):
    inputs = file.under(f"out/stage_input/s{stage}/")
    expected = [
      (sizes[inputs[f"c{i}"].shape[-2]], inputs[f"c{i}"].shape[2])
      for i in range(len(inputs))
    ]
    ours = history.clips(units - 1, stage, per_unit)
    assert [(c.level, c.stop - c.start) for c in ours] == expected


def test_token_counts_of_ten_seconds_at_768p():
  clips = [history.clips(30, stage, 1) for stage in range(3)]
  assert [history.token_count(c, 3840, 3) for c in clips] == [7440, 8880, 15360]
  full = history.full_sequence(31, 2)
  assert history.token_count(full, 3840, 3) == 119_040
  assert history.unit_count(31, 1) == 31


@pytest.mark.parametrize("unit, stage, per_unit", UNITS)
def test_every_earlier_frame_is_seen_once_and_no_later_one(
  unit, stage, per_unit
):
  clips = history.clips(unit, stage, per_unit)
  start, stop = history.unit_frames(unit, per_unit)
  seen = [f for c in clips for f in range(c.start, c.stop)]
  assert seen == list(range(stop))
  assert clips[-1] == (stage, start, stop)


@pytest.mark.parametrize("unit, stage, per_unit", UNITS)
def test_levels_fall_by_one_a_unit_into_the_past(unit, stage, per_unit):
  clips = history.clips(unit, stage, per_unit)
  levels = [c.level for c in reversed(clips[:-1])]
  assert levels == [max(stage - i, 0) for i in range(len(levels))]
  # only the oldest clip may be longer than a unit, and only at level 0
  assert all(c.stop - c.start <= per_unit for c in clips[1:])


@pytest.mark.parametrize("unit, stage, per_unit", UNITS[:30])
def test_source_points_at_the_token_it_names(unit, stage, per_unit):
  stages, frames, patch = 4, 25, 2
  height, width = 16, 32
  clips = history.clips(unit, stage, per_unit)
  # a video whose every value names its frame and its place
  video = np.zeros((frames, height, width, 3), np.float32)
  video[..., 0] = np.arange(frames)[:, None, None]
  video[..., 1] = np.arange(height)[:, None] + 0.5  # centres, full resolution
  video[..., 2] = np.arange(width) + 0.5
  pool = resample.token_pool(resample.pyramid(video, stages), patch)
  for table_size in (None, 32):
    layout = history.layout(
      clips, stages, frames, height, width, patch, table_size=table_size
    )
    tokens = pool[layout.source].reshape(-1, 4, 3).mean(1)
    np.testing.assert_array_equal(tokens[:, 0], layout.frame)
    # centre in pixels -> centre in the target's tokens -> table
    token_pixels = patch << (stages - 1 - stage)
    yx = tokens[:, 1:] / token_pixels - 0.5
    grid = np.array([height, width]) // token_pixels
    yx = yx + (0 if table_size is None else (table_size - grid) // 2)
    np.testing.assert_allclose(layout.yx, yx, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
      layout.is_target, layout.frame >= clips[-1].start
    )
    assert len(layout.frame) == history.token_count(clips, 128, stages)


def test_layout_has_the_types_of_a_row():
  layout = history.layout(history.clips(2, 1, 1), 3, 3, 16, 24, 2)
  assert [x.dtype for x in layout] == [np.int32, np.float32, bool, np.int32]


@pytest.mark.parametrize(
  "factor, expected", [(2, [0.5, 2.5, 4.5]), (4, [1.5, 5.5])]
)
def test_flux_positions_of_history_are_fractional(factor, expected):
  # /2 gives 0.5, 2.5, ...; /4 gives 1.5, 5.5, ...
  clips = (history.Clip(2 - factor // 2, 0, 1), history.Clip(2, 1, 2))
  layout = history.layout(clips, 3, 2, 48, 48, 2)
  np.testing.assert_allclose(layout.yx[: len(expected), 1], expected)
  np.testing.assert_array_equal(
    layout.yx[layout.is_target][:4, 1], np.arange(4)
  )


def sincos_table(size, base, width):
  """SD3's table by its definition, [size, size, width], x before y."""
  omega = 10000.0 ** -(np.arange(width // 4) / (width // 4))
  angle = np.arange(size, dtype=np.float32)[:, None] / (size / base) * omega
  line = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
  x = np.broadcast_to(line[None], (size, size, width // 2))
  return np.concatenate([x, x.swapaxes(0, 1)], axis=2)


def lookup(table, yx):
  """Bilinear table entries."""
  low = np.floor(yx).astype(int)
  high = np.minimum(low + 1, len(table) - 1)
  y, x = np.moveaxis(yx - low, -1, 0)[..., None]
  return (1 - y) * (
    (1 - x) * table[low[:, 0], low[:, 1]] + x * table[low[:, 0], high[:, 1]]
  ) + y * (
    (1 - x) * table[high[:, 0], low[:, 1]] + x * table[high[:, 0], high[:, 1]]
  )


@pytest.mark.parametrize(
  "size, level, target",
  [
    ("48x80", 2, "48x80"),
    ("24x40", 1, "48x80"),
    ("12x20", 0, "48x80"),
    ("24x40", 1, "24x40"),
    ("12x20", 0, "24x40"),
  ],
)
def test_positions_look_up_what_the_released_code_adds(size, level, target):
  file = reference.load("mmdit_posembed192")
  stage = {"48x80": 2, "24x40": 1}[target]
  clips = (history.Clip(level, 0, 1), history.Clip(stage, 1, 2))
  layout = history.layout(clips, 3, 2, 48, 80, 2, table_size=192)
  entries = lookup(sincos_table(192, 64, 16), layout.yx[~layout.is_target])
  expected = file[f"out/crop_{size}_of_{target}"][0]
  # the same four entries, averaged in float32 there
  np.testing.assert_allclose(entries, expected, rtol=0, atol=2e-6)


def test_plain_positions_are_the_crop_of_the_clip_itself():
  file = reference.load("mmdit_posembed192")
  clips = (history.Clip(0, 0, 1), history.Clip(2, 1, 2))
  layout = history.layout(clips, 3, 2, 48, 80, 2, "plain", table_size=192)
  entries = lookup(sincos_table(192, 64, 16), layout.yx[~layout.is_target])
  expected = file["out/crop_nointerp_12x20"][0]
  np.testing.assert_allclose(entries, expected, rtol=0, atol=2e-6)


def test_joint_order_is_by_segment_text_first_padding_last():
  segment = np.array([2, 2, 2, 1, 1, 0, 0])
  frame = np.array([0, 1, 1, 0, 1, 0, 0])
  text_segment = np.array([1, 1, 2, 0])
  order = history.joint_order(segment, frame, text_segment)
  #        segment 1     segment 2        padding
  assert order.tolist() == [0, 1, 7, 8, 2, 4, 5, 6, 3, 9, 10]
  assert order.dtype == np.int32
  batch = history.joint_order(
    *(np.stack([x, x]) for x in (segment, frame, text_segment))
  )
  np.testing.assert_array_equal(batch, np.stack([order, order]))


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(height=20), "latent height 20 is not a multiple of 8 .* nearest: 16"),
    (dict(width=4), "latent width 4 is not a multiple of 8"),
    (dict(frames=3), "not part of a video of 3 latent frames"),
    (dict(positions="learned"), "'learned' is not"),
    (dict(table_size=10), "12 tokens a side exceed the position table of 10"),
  ],
)
def test_wrong_sizes_are_errors(change, message):
  arguments = dict(stages=3, frames=5, height=16, width=24, patch=2) | change
  with pytest.raises(ValueError, match=message):
    history.layout(history.clips(4, 2, 1), **arguments)


def test_frames_that_make_no_whole_units_are_an_error():
  with pytest.raises(ValueError, match="6 latent frames .* use 5 or 7"):
    history.unit_count(6, 2)
