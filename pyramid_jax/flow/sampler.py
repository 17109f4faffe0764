"""Generates a video unit by unit, a unit stage by stage (Algorithm 1, Eq. 17).

Within a unit the stages are one `lax.scan`. Its carry is the unit's latent on a
canvas of full resolution, a stage's own latent in the corner; its body switches
on the stage, so each branch has static sizes and a coarse stage costs a coarse
stage. A branch jumps to its resolution (renoise.py) and takes its Euler steps
in a scan of their own. The past is gathered from the pyramid of all frames
generated so far by integers that the host computed; they are arguments, and
padded, so that one compiled program serves a bucket of units.

Never `vmap` the switch: it would run every branch for every sample.

Legend: B samples, R rows (2B with guidance: negative prompts, then positive),
L latent tokens, M text tokens, J = M + L, T frames of the video, F of a unit,
H W C full-resolution latents, N tokens of the pool, D = p p C, K stages.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from pyramid_jax.flow import history
from pyramid_jax.flow.plan import Plan, UnitNoise, draw_noise, unit_rows
from pyramid_jax.flow.renoise import stage_jump
from pyramid_jax.flow.resample import (
  noise_pyramid,
  patchify,
  pyramid,
  token_pool,
  unpatchify,
)
from pyramid_jax.flow.schedule import Schedule, inference_table

# velocity(x [R, L, D], rows, timestep [R, 1]) -> [R, L, D]
Velocity = Callable[[jax.Array, Mapping[str, jax.Array], jax.Array], jax.Array]
Rows = Mapping[str, jax.Array]


def euler_step(x: jax.Array, velocity: jax.Array, change: float) -> jax.Array:
  """One step along the flow; `change` is that of sigma, negative."""
  return x + change * velocity


class _Unit(NamedTuple):
  """What the stages of a unit share inside the program."""

  velocity: Velocity
  pool_BND: jax.Array
  rows: tuple[Rows, ...]
  text: Rows
  guidance: jax.Array


def sample_unit(
  velocity: Velocity,
  latents: jax.Array,
  rows: tuple[Rows, ...],
  text: Rows,
  noise: UnitNoise,
  guidance: jax.Array,
  *,
  schedule: Schedule,
  steps: tuple[int, ...],
  patch: int,
  upsample: str = "nearest",
) -> tuple[jax.Array, ...]:
  """Generates one unit (Algorithm 1); to be called under `jax.jit`.

  Args:
    velocity: the model.
    latents: [B, T, H, W, C] clean frames; those of this unit and later are
      not read.
    rows: of each stage, see `unit_rows`.
    text: `text` [R, M, E], `text_segment` [R, M], `pooled` [R, 1, P]; R = 2B
      with guidance, all negative prompts first.
    noise: all draws.
    guidance: scalar scale, unused if R = B.
    schedule: of the pyramid; static, as the rest.
    steps: Euler steps of each stage.
    patch: pixels a side of a token.
    upsample: Up of the stage jump.

  Returns:
    Where each stage ends, [B, F, H_k, W_k, C], coarsest first; the last are the
    unit's clean latents.
  """
  K, (height, width) = schedule.stages, latents.shape[2:4]
  pool = token_pool(pyramid(latents, K), patch)
  unit = _Unit(velocity, pool, rows, text, guidance)

  def corner(k):
    sides = slice(height >> K - 1 - k), slice(width >> K - 1 - k)
    return (..., *sides, slice(None))

  def stage(k, canvas):
    x = canvas[corner(max(k - 1, 0))]
    if k > 0:
      x = stage_jump(x, schedule, k, noise.blocks[k - 1], upsample)
    x = _flow(unit, k, x, inference_table(schedule, k, steps[k]), patch)
    return canvas.at[corner(k)].set(x)

  branches = [functools.partial(stage, k) for k in range(K)]

  def switch(canvas, k):
    canvas = lax.switch(k, branches, canvas)
    return canvas, canvas

  start = noise_pyramid(noise.start, K)[0]
  canvas = jnp.zeros_like(noise.start).at[corner(0)].set(start)
  ends = lax.scan(switch, canvas, jnp.arange(K))[1]
  return tuple(ends[k][corner(k)] for k in range(K))


def sample_unit_loop(
  velocity: Velocity,
  latents: jax.Array,
  rows: tuple[Rows, ...],
  text: Rows,
  noise: UnitNoise,
  guidance: jax.Array,
  *,
  schedule: Schedule,
  steps: tuple[int, ...],
  patch: int,
  upsample: str = "nearest",
) -> tuple[jax.Array, ...]:
  """`sample_unit` as Algorithm 1 reads: loops over stages and steps."""
  K = schedule.stages
  pool = token_pool(pyramid(latents, K), patch)
  unit = _Unit(velocity, pool, rows, text, guidance)
  x, ends = noise_pyramid(noise.start, K)[0], []
  for k in range(K):
    if k > 0:
      x = stage_jump(x, schedule, k, noise.blocks[k - 1], upsample)
    model = _stage_velocity(unit, k, x.shape, patch)
    timesteps, sigmas = inference_table(schedule, k, steps[k])
    for i, timestep in enumerate(_float32(timesteps)):
      v = _image(model(patchify(x, patch), timestep), x.shape, patch)
      x = euler_step(x, v, _float32(sigmas[i + 1] - sigmas[i]))
    ends.append(x)
  return tuple(ends)


def _flow(
  unit: _Unit,
  k: int,
  x: jax.Array,
  table: tuple[np.ndarray, np.ndarray],
  patch: int,
) -> jax.Array:
  """A stage from its start to its end: a scan over its Euler steps."""
  model = _stage_velocity(unit, k, x.shape, patch)

  def step(tokens, now):
    timestep, change = now
    return euler_step(tokens, model(tokens, timestep), change), None

  timesteps, sigmas = table
  now = (_float32(timesteps), _float32(np.diff(sigmas)))
  return _image(lax.scan(step, patchify(x, patch), now)[0], x.shape, patch)


def _stage_velocity(
  unit: _Unit, k: int, shape: Sequence[int], patch: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The guided velocity of a stage's target tokens, given them and a timestep.

  `shape` is that of the stage's latent, [B, F, H, W, C].
  """
  rows = dict(unit.rows[k])
  R, B = len(rows["joint"]), shape[0]
  n = shape[1] * shape[2] * shape[3] // patch**2
  past_BLD = unit.pool_BND[:, rows.pop("source")]
  # padding points somewhere in the pool, where there may be no frame yet
  valid = (rows["segment"][: past_BLD.shape[1]] > 0)[:, None]
  past_BLD = jnp.where(valid, past_BLD, 0)
  for name in ("segment", "frame", "yx"):
    rows[name] = jnp.broadcast_to(rows[name], (R, *rows[name].shape))
  rows |= unit.text

  def guided(tokens_BnD, timestep):
    x = jnp.concatenate([past_BLD, tokens_BnD], axis=1)
    x = jnp.concatenate([x] * (R // B))
    v = unit.velocity(x, rows, jnp.full((R, 1), timestep))
    v = v[:, -n:].astype(jnp.float32)
    if R == B:
      return v
    negative, positive = jnp.split(v, 2)
    return negative + unit.guidance * (positive - negative)

  return guided


def _image(tokens: jax.Array, shape: Sequence[int], patch: int) -> jax.Array:
  """Tokens as a latent of `shape`."""
  return unpatchify(
    tokens, shape[1], shape[2] // patch, shape[3] // patch, patch
  )


def _float32(x) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


STATIC = ("schedule", "steps", "patch", "upsample")
compiled_unit = jax.jit(sample_unit, static_argnames=STATIC)


@functools.partial(jax.jit, donate_argnums=0)
def _place(latents, unit, start):
  return lax.dynamic_update_slice_in_dim(latents, unit, start, axis=1)


def generate_units(
  velocity: Velocity,
  plan: Plan,
  schedule: Schedule,
  text: Rows | Callable[[int], Rows],
  *,
  keys: jax.Array | None = None,
  noise: Callable[[int], UnitNoise] | None = None,
  prefix: jax.Array | None = None,
  program: Callable[..., tuple[jax.Array, ...]] = compiled_unit,
) -> Iterator[tuple[jax.Array, ...]]:
  """Generates a video, yielding each unit as soon as it is clean.

  Args:
    velocity: the model. Pass `jax.tree_util.Partial(function, params)`: then
      the parameters are arguments of the compiled program, and it is used
      again by the next call with the same function.
    plan: what to generate.
    schedule: of the pyramid.
    text: see `sample_unit`; the rows say how many samples there are. A function
      gives the text of a unit, always of one shape: prompts that change.
    keys: [B] one a sample; or
    noise: all draws of a unit, given its number.
    prefix: [B, T0, H, W, C] clean frames to go on from (an image to animate, a
      video to continue), whole units; they are not yielded again.
    program: `sample_unit` under jit, or `sample_unit_loop`.

  Returns:
    An iterator of where the stages of a unit end, [B, F, H_k, W_k, C] float32,
    normalised as in training; the last is the unit.

  Raises:
    ValueError: steps, rows or prefix that do not fit the plan.
  """
  text_of = text if callable(text) else lambda unit: text
  first = _check(plan, schedule, text_of(0), keys, noise, prefix)
  if not isinstance(velocity, Partial):
    velocity = Partial(velocity)
  noise = noise or (lambda unit: draw_noise(keys, unit, plan, schedule))
  return _units(
    velocity, plan, schedule, text_of, noise, prefix, first, program
  )


def _units(velocity, plan, schedule, text_of, noise, prefix, first, program):
  """The loop of `generate_units`, its arguments checked."""
  samples = _samples(plan, text_of(first))
  latents = jnp.zeros(
    (samples, plan.frames, plan.height, plan.width, plan.channels)
  )
  if prefix is not None:
    latents = _place(latents, _float32(prefix), 0)
  for unit in range(first, plan.units):
    text = text_of(unit)
    text = {name: text[name] for name in ("text", "text_segment", "pooled")}
    text_segment = np.asarray(text["text_segment"])
    ends = program(
      velocity,
      latents,
      unit_rows(plan, schedule.stages, unit, text_segment),
      text,
      noise(unit),
      _float32(plan.guidance_scale(unit)),
      schedule=schedule,
      steps=plan.later_steps if unit else plan.steps,
      patch=plan.patch,
      upsample=plan.upsample,
    )
    latents = _place(latents, ends[-1], plan.unit_frames(unit)[0])
    yield ends


def _samples(plan: Plan, text: Rows) -> int:
  """How many there are: with guidance every one has two rows."""
  return len(text["text_segment"]) // (2 if plan.guided else 1)


def _check(plan, schedule, text, keys, noise, prefix) -> int:
  """Validates the arguments of `generate_units`; returns the first unit."""
  for name in ("steps", "later_steps"):
    steps = getattr(plan, name)
    if len(steps) != schedule.stages:
      raise ValueError(
        f"{name} {steps} has {len(steps)} entries; give one for each of the "
        f"{schedule.stages} stages."
      )
  rows = len(text["text_segment"])
  if plan.guided and rows % 2:
    raise ValueError(
      f"{rows} rows of text are odd; guidance {plan.guidance} needs a negative "
      "prompt for each prompt, or set it to 0."
    )
  if (keys is None) == (noise is None):
    raise ValueError("pass either keys or noise.")
  if prefix is None:
    return 0
  clips, frames = prefix.shape[:2]
  if clips != _samples(plan, text):
    raise ValueError(
      f"{clips} given clips do not fit the text of {_samples(plan, text)} "
      "samples; give one for each."
    )
  if prefix.shape[2:] != (plan.height, plan.width, plan.channels):
    raise ValueError(
      f"given frames of {prefix.shape[2:]} (H, W, C) do not fit the plan's "
      f"{(plan.height, plan.width, plan.channels)}; encode them at its size."
    )
  if plan.full_sequence or frames >= plan.frames:
    raise ValueError(
      f"{frames} given frames leave nothing to generate of {plan.frames}, or "
      "the plan is to generate the full sequence at once."
    )
  return history.unit_count(frames, plan.frames_per_unit)
