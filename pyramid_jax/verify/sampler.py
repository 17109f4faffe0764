"""Whole generations: every stage's end and the latents, with recorded draws.

Legend: B samples, C T H W latents as the reference has them.
"""

import functools

import numpy as np
from jax.tree_util import Partial

from pyramid_jax.flow.plan import Plan, UnitNoise
from pyramid_jax.flow.resample import unpatchify
from pyramid_jax.flow.sampler import (
  STATIC,
  generate_units,
  sample_unit,
  sample_unit_loop,
)
from pyramid_jax.flow.schedule import Schedule, make_schedule
from pyramid_jax.verify import dit
from pyramid_jax.verify.file import Reference
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report

LATENT = 1e-3  # absolute; float32 noise of the reference is up to 3.4e-5


def run(file: Reference, report: Report, options: Options):
  """Compares the stages' ends and the latents of a whole generation."""
  config, model, params = dit.load(file, options)
  schedule = schedule_of(file.config["case"].get("pipe", {}))
  plan, prefix, first = _plan(file, config, schedule.stages)
  with options.on_mesh():
    if report.wants("mid/unit"):
      _calls(
        file, report, options, model, params, schedule, plan, prefix, first
      )
    units = generate_units(
      Partial(model.apply, params),
      plan,
      schedule,
      _text(file, plan.guided),
      noise=functools.partial(_noise, file, plan, schedule, first),
      prefix=prefix,
      program=options.jit(sample_unit, static_argnames=STATIC),
    )
    latents = [] if prefix is None else [channels_first(prefix)]
    for unit, ends in enumerate(units, first):
      for k, end in enumerate(ends):
        key = f"out/unit{unit}/stage{k}"
        if key in file:
          report.compare(key, channels_first(end), LATENT, 1)
      latents.append(channels_first(ends[-1]))
  report.compare("out/latents", np.concatenate(latents, 2), LATENT, 1)


def schedule_of(pipe: dict, stages: int = 3) -> Schedule:
  """The schedule of a pipeline's arguments; what is not given is upstream's."""
  stages = len(pipe.get("stages", [0] * stages))
  even = [k / stages for k in range(stages)] + [1.0]
  return make_schedule(
    stages,
    tuple(pipe.get("stage_range", even)),
    pipe.get("timestep_shift", 1.0),
    pipe.get("scheduler_gamma", 1 / 3),
  )


def channels_last(x):
  """[B, C, T, H, W] -> [B, T, H, W, C]."""
  return np.moveaxis(np.asarray(x), 1, -1)


def channels_first(x):
  """[B, T, H, W, C] -> [B, C, T, H, W]."""
  return np.moveaxis(np.asarray(x), -1, 1)


def _plan(
  file: Reference, config, stages: int
) -> tuple[Plan, np.ndarray | None, int]:
  """The plan of the pipeline's arguments, given frames, the first unit."""
  case = file.config["case"]
  arguments, image = case["kwargs"], case["mode"] == "i2v"
  _, channels, _, height, width = file["in/init_latents"].shape
  as_list = lambda x: tuple([x] * stages if isinstance(x, int) else x)
  steps = as_list(arguments["num_inference_steps"])
  later = arguments.get("video_num_inference_steps", steps)
  linear = arguments.get("use_linear_guidance", False)
  guidance = arguments["guidance_scale"]
  plan = Plan(
    frames=file["out/latents"].shape[2],
    height=height,
    width=width,
    channels=channels,
    steps=steps,
    # image-to-video takes the first unit's steps throughout
    later_steps=steps if image else as_list(later),
    guidance=guidance,
    # a linear decay starts from the first unit's scale
    later_guidance=guidance if linear else arguments["video_guidance_scale"],
    guidance_decay=arguments.get("alpha", 0.5) if linear else 0.0,
    min_guidance=arguments.get("min_guidance_scale", 2.0),
    frames_per_unit=case.get("pipe", {}).get("frame_per_unit", 1),
    patch=config.patch,
    positions=config.history_positions,
    table_size=config.grid,
  )
  if not image:
    return plan, None, 0
  return plan, channels_last(file["out/latents"])[:, :1], 1


def _text(file: Reference, guided: bool) -> dict[str, np.ndarray]:
  """Rows of text, all negative prompts first."""
  names = ("neg", "pos") if guided else ("pos",)
  join = lambda key: np.concatenate([file[f"in/{n}/{key}"] for n in names])
  return dict(
    text=join("embeds"),
    text_segment=join("mask").astype(np.int32),
    pooled=join("pooled")[:, None],
  )


def _noise(file, plan: Plan, schedule, first: int, unit: int) -> UnitNoise:
  """The recorded draws of a unit; image-to-video takes its noise from 0."""
  latents = channels_last(file["in/init_latents"])
  blocks = [channels_last(x) for x in file.numbered("in/block_noise")]
  start, stop = plan.unit_frames(unit)
  if first:
    start, stop = start - 1, stop - 1
  jumps = schedule.stages - 1
  at = jumps * (unit - first)
  return UnitNoise(latents[:, start:stop], tuple(blocks[at : at + jumps]))


def _calls(file, report, options, model, params, schedule, plan, prefix, first):
  """Compares what goes into every call of the model, and what comes out."""
  calls, unit = [], first

  apply = options.jit(model.apply)

  def velocity(x, rows, timestep):
    v = apply(params, x, rows, timestep)
    calls.append((x, v, timestep))
    return v

  for unit, _ in enumerate(
    generate_units(
      Partial(velocity),
      plan,
      schedule,
      _text(file, plan.guided),
      noise=functools.partial(_noise, file, plan, schedule, first),
      prefix=prefix,
      program=sample_unit_loop,
    ),
    first,
  ):
    for i, (x, v, timestep) in enumerate(calls):
      key = f"mid/unit{unit}/call{i:02d}"
      if f"{key}/noisy" not in file:
        continue
      shape = file[f"{key}/noisy"].shape
      report.middle(f"{key}/timestep", lambda t=timestep: t[:, 0])
      for name, tokens in (("noisy", x), ("pred", v)):
        report.middle(
          f"{key}/{name}",
          lambda tokens=tokens, shape=shape: _clip(tokens, shape, plan.patch),
        )
    calls.clear()


def _clip(tokens_RLD, shape, patch: int) -> np.ndarray:
  """The target, the last tokens of a row, as [R, C, T, H, W] of `shape`."""
  _, _, T, H, W = shape
  n = T * H * W // patch**2
  tokens = tokens_RLD[:, -n:]
  return channels_first(unpatchify(tokens, T, H // patch, W // patch, patch))
