"""The sampler on small stand-ins for the model, and its bookkeeping."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from pyramid_jax.flow import history, resample
from pyramid_jax.flow.plan import Plan, bucket, draw_noise, unit_rows
from pyramid_jax.flow.renoise import rescale_and_weight
from pyramid_jax.flow.sampler import (
  generate_units,
  sample_unit_loop,
)
from pyramid_jax.flow.schedule import make_schedule
from tests.flow.programs import loop, program

SCHEDULE = make_schedule()
PLAN = Plan(
  frames=3,
  height=8,
  width=16,
  channels=2,
  steps=(2, 1, 3),
  later_steps=(1, 3, 2),
  guidance=3.0,
  later_guidance=2.0,
)
TRACES = []


def mix(params, x, rows, timestep):
  """A stand-in that every input of a row reaches, without attention."""
  TRACES.append(x.shape[1])
  valid = (rows["segment"] > 0)[..., None]
  place = jnp.concatenate([rows["frame"][..., None], rows["yx"]], -1)
  tokens = x @ params["x"] + 0.1 * place @ params["place"]
  text = (rows["text_segment"] > 0)[..., None] * (rows["text"] @ params["text"])
  mean = (valid * jnp.tanh(tokens)).sum(1) / valid.sum(1)
  mean += text.sum(1) + (rows["pooled"] @ params["text"])[:, 0]
  return jnp.tanh(tokens + (mean + timestep / 1000)[:, None]) - 0.2 * x


def parameters(seed=0, size=8):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = dict(x=(size, size), place=(3, size), text=(4, size))
  return {
    name: 0.3 * jax.random.normal(key, shape)
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
  }


def prompts(samples, guided=True, seed=0):
  """Random text rows of different lengths, negative first."""
  rng = np.random.default_rng(seed)
  rows = samples * (2 if guided else 1)
  lengths = 1 + np.arange(rows) % 5
  return dict(
    text=rng.standard_normal((rows, 5, 4)).astype(np.float32),
    text_segment=(np.arange(5) < lengths[:, None]).astype(np.int32),
    pooled=rng.standard_normal((rows, 1, 4)).astype(np.float32),
  )


def generate(plan, schedule=SCHEDULE, samples=2, **options):
  """The whole video [B, T, H, W, C] of `mix`, with draws from key 0."""
  options = (
    dict(
      velocity=Partial(mix, parameters()),
      text=prompts(samples, plan.guided),
      keys=jax.random.split(jax.random.key(0), samples),
    )
    | options
  )
  units = generate_units(plan=plan, schedule=schedule, **options)
  return np.concatenate([ends[-1] for ends in units], axis=1)


# The same float32 operations fused differently, amplified by guidance over all
# steps; values reach 5.
close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
  "change",
  [
    dict(),
    dict(guidance=0.0, frames_per_unit=2),
    dict(full_sequence=True),
  ],
  ids=str,
)
def test_scan_over_stages_equals_the_loop(change):
  plan = dataclasses.replace(PLAN, **change)
  video = generate(plan)
  assert video.shape == (2, plan.frames, 8, 16, 2)
  close(video, generate(plan, program=loop))


@pytest.mark.parametrize("run", [program, loop], ids=["scan", "loop"])
def test_without_corrective_noise_a_stage_starts_from_equal_values(run):
  """The jump only rescales; the first stage is as with the noise."""
  plan = dataclasses.replace(PLAN, frames=1, renoise=False)
  still = lambda params, x, rows, timestep: jnp.zeros_like(x)
  ends = lambda plan: next(
    generate_units(
      Partial(still, {}), plan, SCHEDULE, prompts(2),
      keys=jax.random.split(jax.random.key(0)), program=run,
    )
  )  # fmt: skip
  coarse, middle, full = ends(plan)  # nothing moves after the jump
  for below, x, k in ((coarse, middle, 1), (middle, full, 2)):
    rescale, _ = rescale_and_weight(SCHEDULE.original_start[k], SCHEDULE.gamma)
    # float32 rounding
    close(x, rescale * resample.up(np.asarray(below)))
  with_noise = ends(dataclasses.replace(plan, renoise=True))
  np.testing.assert_array_equal(with_noise[0], coarse)
  assert np.abs(with_noise[1] - middle).min() > 0


def test_other_stages_gamma_upsampling_and_positions():
  schedule = make_schedule(2, (0, 0.4, 1), shift=2.0, gamma=0.2)
  plan = dataclasses.replace(
    PLAN,
    frames=2,
    steps=(2, 1),
    later_steps=(1, 2),
    upsample="bilinear",
    positions="plain",
    table_size=12,
  )
  video = generate(plan, schedule)
  close(video, generate(plan, schedule, program=loop))


def implied_noise(x, timestep, clean, coarse):
  """Training's equations (objective.py) solved for n; and the velocity."""
  k = {2: 0, 8: 1, 32: 2}[x.shape[1]]  # tokens of a frame of 8 x 16
  clean, coarse = (resample.patchify(v[k], 2) for v in (clean, coarse))
  first, last = SCHEDULE.timesteps[k, [0, -1]]
  ratio = 1 - 0.999 * (first - timestep[0, 0]) / (first - last)
  s, e = SCHEDULE.start_sigma[k], SCHEDULE.end_sigma[k]
  signal = ratio * (1 - s) * coarse + (1 - ratio) * (1 - e) * clean
  noise = (x - signal) / (ratio * s + (1 - ratio) * e)
  return noise, (s - e) * noise + (1 - s) * coarse - (1 - e) * clean


@pytest.mark.parametrize("steps", [(1, 1, 1), (4, 2, 7)])
def test_perfect_velocity_leads_to_the_clean_latent(steps):
  """And every stage starts from what training starts it from."""
  samples = 512
  video = jax.random.normal(jax.random.key(1), (1, 1, 8, 16, 2))
  clean = resample.pyramid(video, 3)
  coarse = resample.coarse_pyramid(clean)
  noises = []

  def velocity(x, rows, timestep):
    noise, v = implied_noise(x, timestep, clean, coarse)
    noises.append(np.asarray(noise))
    return v

  plan = dataclasses.replace(PLAN, frames=1, steps=steps, guidance=0.0)
  result = generate(
    plan, samples=samples, velocity=velocity, program=sample_unit_loop
  )
  # float32, with a division by the last sigma of 5e-4 on the way
  np.testing.assert_allclose(result, video.repeat(samples, 0), atol=2e-5)
  at = 0
  for k, count in enumerate(steps):
    first, last = noises[at], noises[at + count - 1]
    at += count
    np.testing.assert_allclose(first, last, atol=2e-3)  # a straight path
    # the law of n at the start: unit normal, independent within a block
    first = first.reshape(-1, 2, 2, 2)  # patch of 2 x 2 pixels, channel
    values = first.transpose(0, 3, 1, 2).reshape(-1, 4)
    error = 5 / np.sqrt(len(values))  # 5 standard errors
    np.testing.assert_allclose(values.mean(0), 0, atol=error)
    np.testing.assert_allclose(
      np.cov(values.T), np.eye(4), atol=error * np.sqrt(2), err_msg=f"stage {k}"
    )


def test_a_buckets_padding_changes_nothing():
  video = generate(PLAN)  # unit 1 is padded for unit 2
  alone = dataclasses.replace(PLAN, frames=2)
  tiles = dataclasses.replace(PLAN, multiple=64)
  close(generate(alone, prefix=video[:, :1]), video[:, 1:2])
  close(generate(tiles, prefix=video[:, :1]), video[:, 1:])
  for stage, row in enumerate(unit_rows(tiles, 3, 1, np.ones((4, 5), int))):
    assert row["joint"].shape[1] % 64 == 0, stage


@pytest.mark.parametrize("units, programs", [(16, 4), (31, 5)])
def test_few_programs_serve_all_units_and_none_is_compiled_again(
  units, programs
):
  plan = dataclasses.replace(PLAN, frames=units)
  TRACES.clear()
  generate(plan)
  stages = SCHEDULE.stages
  assert len(TRACES) <= programs * stages, TRACES
  assert len({bucket(unit, units) for unit in range(units)}) == programs
  TRACES.clear()
  generate(
    dataclasses.replace(plan, guidance=5.0, guidance_decay=0.1),
    schedule=make_schedule(),
    velocity=Partial(mix, parameters(seed=1)),
    text=prompts(2, seed=1),
  )
  assert not TRACES


@pytest.mark.parametrize("units", [1, 2, 5, 16, 31])
def test_buckets_partition_the_units(units):
  for unit in range(units):
    first, last = bucket(unit, units)
    assert first <= unit <= last < units
    assert all(
      bucket(u, units) == (first, last) for u in range(first, last + 1)
    )
  assert [bucket(u, 31)[0] for u in (0, 1, 3, 4, 7, 8, 15, 16, 30)] == [
    0, 1, 1, 4, 4, 8, 8, 16, 16,
  ]  # fmt: skip


@pytest.mark.parametrize("per_unit", [1, 2])
@pytest.mark.parametrize("unit", [0, 1, 2])
def test_rows_hold_the_layout_with_the_target_last(unit, per_unit):
  plan = dataclasses.replace(
    PLAN, frames=1 + 4 * per_unit, frames_per_unit=per_unit, multiple=16
  )
  text_segment = np.array([[1, 1, 1], [1, 0, 0]])
  for stage, row in enumerate(unit_rows(plan, 3, unit, text_segment)):
    layout = history.layout(
      history.clips(unit, stage, per_unit), 3, plan.frames, 8, 16, 2
    )
    valid = row["segment"] == 1
    past = ~layout.is_target
    np.testing.assert_array_equal(row["frame"][valid], layout.frame)
    np.testing.assert_array_equal(row["yx"][valid], layout.yx)
    np.testing.assert_array_equal(
      row["source"][valid[: len(row["source"])]], layout.source[past]
    )
    targets = len(layout.frame) - past.sum()
    assert valid[-targets:].all()
    assert len(row["source"]) == len(valid) - targets
    for segment, order in zip(text_segment, row["joint"], strict=True):
      assert sorted(order) == list(range(3 + len(valid)))
      used = np.concatenate([segment, valid])[order]
      assert (np.diff(used.astype(int)) <= 0).all()  # padding last
      text = segment.sum()
      np.testing.assert_array_equal(order[:text], np.arange(text))
      # the latent tokens by frame, in the order of the row
      latent = order[text : text + valid.sum()] - 3
      np.testing.assert_array_equal(latent, np.flatnonzero(valid))


def test_frames_not_yet_generated_are_not_read():
  video = generate(PLAN)
  unit, size = 1, (2, 3, 8, 16, 2)
  for rest in (0.0, np.nan):
    latents = np.full(size, rest, np.float32)
    latents[:, :unit] = video[:, :unit]
    result = program(
      Partial(mix, parameters()),
      jnp.asarray(latents),
      unit_rows(PLAN, 3, unit, prompts(2)["text_segment"]),
      prompts(2),
      draw_noise(jax.random.split(jax.random.key(0)), unit, PLAN, SCHEDULE),
      jnp.float32(PLAN.later_guidance),
      schedule=SCHEDULE,
      steps=PLAN.later_steps,
      patch=2,
      upsample="nearest",
    )
    close(result[-1], video[:, unit : unit + 1])


def test_a_prefix_is_continued_as_if_it_had_been_generated():
  video = generate(PLAN)
  rest = generate(PLAN, prefix=video[:, :2])
  np.testing.assert_array_equal(rest, video[:, 2:])


def test_a_sample_does_not_depend_on_its_batch():
  text, keys = prompts(2), jax.random.split(jax.random.key(0))
  video = generate(PLAN)
  one = {name: x[[1, 3]] for name, x in text.items()}  # negative, positive
  alone = generate(
    PLAN, samples=1, text=one, keys=keys[1:], prefix=video[1:, :1]
  )
  close(alone, video[1:, 1:])


def test_a_mesh_gives_the_video_of_one_device():
  mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
  place = lambda tree, *names: jax.device_put(
    tree, NamedSharding(mesh, PartitionSpec(*names))
  )
  video = generate(
    PLAN,
    text=place(prompts(2), "data"),
    velocity=Partial(mix, place(parameters())),
  )
  close(video, generate(PLAN))


def test_guidance_extrapolates_from_the_negative_prompt():
  text = prompts(2)
  part = lambda rows: {name: x[rows] for name, x in text.items()}
  plan = dataclasses.replace(PLAN, frames=1, steps=(1, 1, 1))
  off = dataclasses.replace(plan, guidance=0.0)
  for scale, rows in ((1.0, slice(2, 4)), (1e-9, slice(2))):
    close(
      generate(dataclasses.replace(plan, guidance=scale), text=text),
      generate(off, text=part(rows)),
    )
  # both prompts alike: the scale does not matter
  same = {name: np.concatenate([x[2:]] * 2) for name, x in text.items()}
  close(generate(plan, text=same), generate(off, text=part(slice(2, 4))))


def test_guidance_scale_decays_to_its_minimum():
  plan = dataclasses.replace(
    PLAN, guidance=7.0, later_guidance=7.0, guidance_decay=2.0, min_guidance=2.5
  )
  assert [plan.guidance_scale(u) for u in range(4)] == [7, 5, 3, 2.5]
  constant = dataclasses.replace(PLAN, guidance=7.0, later_guidance=1.5)
  assert [constant.guidance_scale(u) for u in range(3)] == [7, 1.5, 1.5]


def test_units_arrive_one_by_one():
  units = generate_units(
    Partial(mix, parameters()), PLAN, SCHEDULE, prompts(2),
    keys=jax.random.split(jax.random.key(0)),
  )  # fmt: skip
  *_, first = next(units)
  np.testing.assert_array_equal(first, generate(PLAN)[:, :1])


def test_drawn_noise_has_its_law_and_its_own_key():
  keys = jax.random.split(jax.random.key(0), 64)
  plan = dataclasses.replace(PLAN, frames_per_unit=2, height=16)
  noise = draw_noise(keys, 1, plan, SCHEDULE)
  assert noise.start.shape == (64, 2, 16, 16, 2)
  assert [x.shape[2:4] for x in noise.blocks] == [(8, 8), (16, 16)]
  for x in noise:
    x = np.asarray(x[-1] if isinstance(x, tuple) else x)
    np.testing.assert_allclose(x.mean(), 0, atol=5 / np.sqrt(x.size))
    np.testing.assert_allclose(x.var(), 1, atol=5 * np.sqrt(2 / x.size))
  np.testing.assert_allclose(resample.down(noise.blocks[1]), 0, atol=1e-6)
  other = draw_noise(keys[::-1], 1, plan, SCHEDULE)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[::-1], b), noise, other
  )
  assert not np.allclose(draw_noise(keys, 2, plan, SCHEDULE).start, noise.start)


@pytest.mark.parametrize(
  "plan, options, message",
  [
    (dict(steps=(1, 2)), {}, r"steps \(1, 2\) has 2 entries"),
    (dict(frames=4, frames_per_unit=2), {}, "4 latent frames .* use 3 or 5"),
    ({}, dict(text=prompts(1, guided=False)), "1 rows of text are odd"),
    ({}, dict(keys=None), "either keys or noise"),
    ({}, dict(prefix=np.zeros((2, 5, 8, 16, 2))), "leave nothing"),
    ({}, dict(prefix=np.zeros((2, 1, 8, 8, 2))), "do not fit the plan"),
    ({}, dict(prefix=np.zeros((1, 1, 8, 16, 2))), "1 given clips .* 2 samples"),
    (
      dict(full_sequence=True),
      dict(prefix=np.zeros((2, 1, 8, 16, 2))),
      "at once",
    ),
    (dict(height=12), {}, "latent height 12 is not a multiple of 8"),
  ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_errors(plan, options, message):
  with pytest.raises(ValueError, match=message):
    generate(dataclasses.replace(PLAN, **plan), **options)
