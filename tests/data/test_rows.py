"""Rows hold exactly what their segments hold, and segments what they should."""

import dataclasses

import ml_dtypes
import numpy as np
import numpy.testing as npt
import pytest

from pyramid_jax.config import DiTConfig, FlowConfig
from pyramid_jax.data import rows
from pyramid_jax.data.draws import Choice, segment_clips
from pyramid_jax.data.latents import NullPrompt
from pyramid_jax.flow import resample
from tests.data import random_store
from tests.flow import packed

SPEC = rows.TokenSpec()
L, M, S = 700, 40, 8
D = 4 * random_store.CHANNELS


def parts(spec=SPEC, stages=(0, 1, 2, 2, 0)):
  """Segments of five clips."""
  out = []
  for i, stage in enumerate(stages):
    clip = random_store.example(i)
    choice = Choice(len(clip["latent"]) - 1, stage, drop=i == 3)
    out += rows.segments(
      clip, [choice], random_store.NULL, random_store.STATISTICS, spec
    )
  return out


@pytest.mark.parametrize("positions", ["interpolated", "plain"])
@pytest.mark.parametrize("kind", ["pyramid", "none"])
@pytest.mark.parametrize("unit", [0, 1, 3])
def test_a_segment_is_what_the_pool_holds_at_its_layout(unit, kind, positions):
  """The oracle is checked against the released code in tests/flow."""
  flow = FlowConfig(history=kind)
  spec = rows.TokenSpec(flow, positions=positions)
  latent = random_store.example(5, frames=(4, 4))["latent"]
  prompt = NullPrompt(np.ones((3, 6)), np.ones(3))
  for stage in range(3):
    actual = rows.segment(latent, unit, stage, prompt, spec)
    clips = segment_clips(unit, stage, flow)
    desired = packed.segment(latent, clips, 3, positions)
    assert actual.stage == desired.pop("stage") == stage
    for name, value in desired.items():
      npt.assert_array_equal(getattr(actual, name), value, name)
    assert actual.is_target.all() == (kind == "none" or unit == 0)


def test_bilinear_upsampling_reaches_the_coarse_values():
  spec = rows.TokenSpec(FlowConfig(upsample="bilinear"))
  latent = random_store.example(5)["latent"][:1]
  part = rows.segment(latent, 0, 2, random_store.NULL, spec)
  coarse = resample.up(resample.down(latent), "bilinear")
  npt.assert_array_equal(part.coarse, resample.patchify(coarse, 2))


def test_the_table_centres_the_positions():
  spec = rows.TokenSpec.of(FlowConfig(), DiTConfig(table_size=32))
  latent = random_store.example(5, sizes=((16, 16),))["latent"]
  plain = rows.segment(latent, 0, 2, random_store.NULL, SPEC)
  centred = rows.segment(latent, 0, 2, random_store.NULL, spec)
  npt.assert_array_equal(centred.yx, plain.yx + (32 - 8) // 2)


def test_later_frames_have_their_own_shift_and_scale():
  clip = random_store.example(1, frames=(3, 3))
  for unit, shift, scale in ((0, 0.1, 0.5), (2, -0.2, 0.25)):
    (part,) = rows.segments(
      clip,
      [Choice(unit, 2, False)],
      random_store.NULL,
      random_store.STATISTICS,
      SPEC,
    )
    tokens = resample.patchify(clip["latent"][unit : unit + 1], 2)
    # one rounding of float32 at |x| < 4
    npt.assert_allclose(
      part.clean[part.is_target], (tokens - shift) * scale, atol=5e-7
    )


def test_a_dropped_prompt_is_the_null_prompt():
  clip = random_store.example(1)
  kept, dropped = rows.segments(
    clip,
    [Choice(0, 0, False), Choice(0, 0, True)],
    random_store.NULL,
    random_store.STATISTICS,
    SPEC,
  )
  npt.assert_array_equal(kept.text, clip["text"])
  npt.assert_array_equal(kept.pooled, clip["pooled"])
  npt.assert_array_equal(dropped.text, random_store.NULL.text)
  npt.assert_array_equal(dropped.pooled, random_store.NULL.pooled)
  npt.assert_array_equal(dropped.clean, kept.clean)


def test_a_row_has_the_agreed_shapes_and_types():
  row = rows.pack_row(parts(), L, M, S, index=12)
  agreed = {
    "clean": ((L, D), np.float32),
    "coarse": ((L, D), np.float32),
    "segment": ((L,), np.int32),
    "frame": ((L,), np.int32),
    "yx": ((L, 2), np.float32),
    "is_target": ((L,), np.bool_),
    "weight": ((L,), np.float32),
    "stage": ((S,), np.int32),
    "text": ((M, random_store.TEXT_DIM), np.float32),
    "text_segment": ((M,), np.int32),
    "pooled": ((S, random_store.POOLED_DIM), np.float32),
    "joint": ((L + M,), np.int32),
    "index": ((), np.int32),
  }
  assert {k: (v.shape, v.dtype) for k, v in row.items()} == agreed
  assert row["index"] == 12


def test_a_row_holds_its_segments_and_zeros():
  given = parts()
  row = rows.pack_row(given, L, M, S)
  per_token = ("clean", "coarse", "frame", "yx", "is_target", "weight")
  for i, part in enumerate(given):
    mine = row["segment"] == i + 1
    for name in per_token:
      npt.assert_array_equal(row[name][mine], getattr(part, name), name)
    npt.assert_array_equal(row["text"][row["text_segment"] == i + 1], part.text)
    npt.assert_array_equal(row["pooled"][i], part.pooled)
    assert row["stage"][i] == part.stage
  padding = row["segment"] == 0
  assert padding.sum() == L - sum(len(p.clean) for p in given) > 0
  for name in per_token:
    assert not row[name][padding].any()
  assert not row["text"][row["text_segment"] == 0].any()
  npt.assert_array_equal(row["stage"][len(given) :], -1)


def test_weights_sum_to_one_over_the_values_of_a_segment():
  row = rows.pack_row(parts(), L, M, S)
  for i in range(1, 6):
    mine = row["segment"] == i
    # sums of at most 64 float32 terms
    npt.assert_allclose(row["weight"][mine].sum() * D, 1, rtol=1e-5)
    assert not row["weight"][mine & ~row["is_target"]].any()


def test_joint_order_is_segment_by_segment_text_first_then_by_frame():
  row = rows.pack_row(parts(), L, M, S)
  joint = row["joint"]
  npt.assert_array_equal(np.sort(joint), np.arange(L + M))
  segment = np.concatenate([row["text_segment"], row["segment"]])[joint]
  frame = np.concatenate([np.full(M, -1), row["frame"]])[joint]
  valid = segment > 0
  count = valid.sum()
  assert valid[:count].all()  # padding last
  order = segment[:count] * 100 + frame[:count]
  assert (np.diff(order) >= 0).all()


def test_bfloat16_text_stays_bfloat16():
  text = [p._replace(text=p.text.astype(ml_dtypes.bfloat16)) for p in parts()]
  assert rows.pack_row(text, L, M, S)["text"].dtype == ml_dtypes.bfloat16


def test_texts_of_two_kinds_are_not_mixed_in_a_row():
  first, *rest = parts()
  first = first._replace(text=first.text.astype(ml_dtypes.bfloat16))
  with pytest.raises(ValueError, match="texts of bfloat16 and float32"):
    rows.pack_row([first, *rest], L, M, S)


@pytest.mark.parametrize(
  ("budgets", "message"),
  [
    ((100, M, S), "latent tokens exceed the 100 of a row"),
    ((L, 10, S), "text tokens exceed the 10"),
    ((L, M, 4), "5 segments exceed the 4"),
  ],
)
def test_what_exceeds_a_row_is_an_error(budgets, message):
  with pytest.raises(ValueError, match=message):
    rows.pack_row(parts(), *budgets)


def test_description_counts_what_is_valid():
  given = parts()
  row = rows.pack_row(given, L, M, S)
  tokens = sum(len(p.clean) + len(p.text) for p in given)
  assert rows.describe(row) == {"fill": tokens / (L + M), "segments": 5}


def test_frames_after_the_unit_are_not_needed():
  clip = random_store.example(1, frames=(4, 4))
  short = clip | {"latent": clip["latent"][:2]}
  make = lambda c: rows.segments(
    c, [Choice(1, 2, False)], random_store.NULL, random_store.STATISTICS, SPEC
  )[0]
  for a, b in zip(make(clip), make(short), strict=True):
    npt.assert_array_equal(a, b)


def test_units_of_several_frames_are_targets_together():
  spec = dataclasses.replace(SPEC, flow=FlowConfig(frames_per_unit=2))
  latent = random_store.example(1, frames=(5, 5), sizes=((16, 16),))["latent"]
  part = rows.segment(latent, 2, 2, random_store.NULL, spec)
  assert set(part.frame[part.is_target]) == {3, 4}
  assert part.is_target.sum() == 2 * 64
