"""Training inputs and loss against the released code, and their algebra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pyramid_jax.flow import history, objective, schedule
from tests import reference
from tests.flow import packed

FILES = reference.names("noise", "noise_history")
SCHEDULE = schedule.make_schedule()
inputs = jax.jit(
  functools.partial(objective.training_inputs, schedule=SCHEDULE)
)


def example(seed=0):
  """Three segments, one a stage, and the draws of a row that holds them."""
  rng = np.random.default_rng(seed)
  video = rng.standard_normal((3, 16, 16, 4)).astype(np.float32)
  return [
    packed.segment(video, history.clips(unit, stage, 1), 3)
    for unit, stage in ((2, 0), (1, 1), (2, 2))
  ]


def test_x_moves_from_start_to_end_along_the_target():
  rows = packed.row(example(), 200, slots=3)
  draws = objective.draw(jax.random.key(0), rows)
  at = lambda u: inputs(rows, draws._replace(u=jnp.full((1, 3), u)))
  start, middle, last = at(0.0), at(0.25), at(0.9999999)
  np.testing.assert_array_equal(start.timestep[0], SCHEDULE.timesteps[:, 0])
  np.testing.assert_allclose(last.timestep[0], SCHEDULE.timesteps[:, 999])
  # float32 rounding
  close = dict(rtol=0, atol=2e-6)
  np.testing.assert_allclose(start.x - middle.x, 0.25 * start.target, **close)
  np.testing.assert_allclose(start.x - last.x, 0.999 * start.target, **close)
  targets = rows["is_target"][0]
  sigma = SCHEDULE.start_sigma[rows["stage"][0]][rows["segment"][0] - 1]
  np.testing.assert_allclose(
    start.x[0, targets],
    (
      sigma[:, None] * draws.noise[0] + (1 - sigma)[:, None] * rows["coarse"][0]
    )[targets],
    **close,
  )


def test_history_is_corrupted_by_one_strength_a_segment():
  rows = packed.row(example(), 200, slots=3)
  draws = objective.draw(jax.random.key(0), rows)
  out = inputs(rows, draws)
  for i in range(3):
    past = (rows["segment"][0] == i + 1) & ~rows["is_target"][0]
    share = (out.x[0] - rows["clean"][0])[past] / (
      draws.noise[0] - rows["clean"][0]
    )[past]
    # a quotient of float32 numbers; the median is free of small divisors
    np.testing.assert_allclose(
      np.median(share), draws.corruption[0, i], atol=1e-5
    )
  clean = inputs(rows, draws._replace(corruption=jnp.zeros((1, 3))))
  past = ~rows["is_target"]
  np.testing.assert_array_equal(clean.x[past], rows["clean"][past])


def test_draws_have_their_laws():
  rows = packed.batch([packed.row(example(), 200, slots=64)] * 32)
  draws = objective.draw(jax.random.key(1), rows)
  # 5 standard errors
  np.testing.assert_allclose(draws.noise.mean(), 0, atol=5 / np.sqrt(102400))
  np.testing.assert_allclose(draws.noise.var(), 1, atol=5 * np.sqrt(2 / 102400))
  assert draws.u.min() >= 0 and draws.u.max() < 1
  np.testing.assert_allclose(draws.u.mean(), 0.5, atol=5 * 0.29 / 45)
  assert draws.corruption.min() >= 0 and draws.corruption.max() < 1 / 3
  np.testing.assert_allclose(draws.corruption.max(), 1 / 3, atol=0.01)


def test_uncoupled_ends_have_the_law_of_coupled_ones_but_not_their_noise():
  """Each end alone is as before; the pair shares no noise any more."""
  rows = packed.batch([packed.row(example(), 200, slots=3)] * 32)
  key = jax.random.key(3)
  pair = objective.draw(key, rows)
  apart = objective.draw(key, rows, coupled=False)
  assert pair.end_noise is None
  for name in ("noise", "u", "corruption"):
    np.testing.assert_array_equal(getattr(pair, name), getattr(apart, name))
  noise, end_noise = np.ravel(apart.noise), np.ravel(apart.end_noise)
  error = 5 / np.sqrt(noise.size)  # 5 standard errors
  np.testing.assert_allclose(end_noise.mean(), 0, atol=error)
  np.testing.assert_allclose(end_noise.var(), 1, atol=np.sqrt(2) * error)
  np.testing.assert_allclose((noise * end_noise).mean(), 0, atol=error)

  def ends(draws):  # of x at u = 0, and what the target leaves of it
    out = inputs(rows, draws._replace(u=jnp.zeros_like(draws.u)))
    return out.x, out.x - out.target

  targets = rows["is_target"]
  (start, end), (start_apart, end_apart) = ends(pair), ends(apart)
  np.testing.assert_array_equal(start, start_apart)
  swapped = ends(pair._replace(noise=apart.end_noise))[1]
  # float32 rounding of the two differences
  np.testing.assert_allclose(end_apart[targets], swapped[targets], atol=4e-6)
  # the last stage ends at the clean latent, whatever the noise; others not
  stage = rows["stage"][0][rows["segment"][0] - 1]
  last = targets & (stage == 2)
  np.testing.assert_allclose(end[last], end_apart[last], atol=4e-6)
  assert np.abs(end - end_apart)[targets & (stage == 0)].min() > 0


def test_a_rows_draws_are_the_same_in_any_batch_and_on_any_mesh():
  rows = packed.batch([packed.row(example(), 200, slots=3)] * 8)
  draw = jax.jit(lambda rows: objective.draw(jax.random.key(2), rows))
  whole = draw(rows)
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "tensor"))
  split = draw(jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data"))))
  jax.tree.map(np.testing.assert_array_equal, whole, split)
  some = draw(jax.tree.map(lambda x: x[[5, 2]], rows))
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[np.array([5, 2])], b),
    whole,
    some,
  )
  assert np.abs(whole.noise[0] - whole.noise[1]).min() > 0


def test_loss_is_the_mean_over_samples_however_they_are_packed():
  segments = example()
  rng = np.random.default_rng(1)
  error = [
    rng.standard_normal(s["clean"].shape).astype(np.float32) for s in segments
  ]
  expected = [
    (e[s["is_target"]] ** 2).mean()
    for s, e in zip(segments, error, strict=True)
  ]

  def sums(groups):
    rows = packed.batch(
      [packed.row([segments[i] for i in g], 200, slots=3) for g in groups]
    )
    velocity = np.full(rows["clean"].shape, np.nan, np.float32)
    for b, g in enumerate(groups):
      tokens = np.concatenate([error[i] for i in g])
      velocity[b, : len(tokens)] = tokens  # padding stays NaN
    target = np.zeros_like(velocity)
    return objective.loss_sums(jnp.asarray(velocity), target, rows, 3)

  for groups in ([[0, 1, 2]], [[0], [1], [2]], [[2, 0], [1]]):
    result = sums(groups)
    np.testing.assert_allclose(result.mean(), np.mean(expected), rtol=1e-6)
    np.testing.assert_allclose(result.stage_means(), expected, rtol=1e-6)
    np.testing.assert_array_equal(result.segments, 1)
  parts = [sums([[0, 1]]), sums([[2]])]  # microbatches
  total = jax.tree.map(lambda *x: sum(x), *parts)
  np.testing.assert_allclose(total.mean(), np.mean(expected), rtol=1e-6)
  assert np.isnan(parts[1].stage_means()[0])


def test_padding_and_history_get_no_gradient():
  rows = packed.row(example(), 200, slots=3)
  loss = lambda v: objective.loss_sums(v, jnp.zeros_like(v), rows, 3).mean()
  grad = jax.grad(loss)(jnp.ones_like(rows["clean"]))
  np.testing.assert_array_equal((grad != 0).all(-1), rows["is_target"])
