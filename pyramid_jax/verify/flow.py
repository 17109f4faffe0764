"""The schedule, the corrective noise, positions, and training examples."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.flow import history, objective, renoise, resample, schedule
from pyramid_jax.flow.sampler import euler_step
from pyramid_jax.models import positions
from pyramid_jax.verify.file import Reference
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report
from pyramid_jax.verify.sampler import (
  channels_first,
  channels_last,
  schedule_of,
)
from pyramid_jax.verify.samples import flow_of, packed, recorded, unpacked

# The released code holds its global sigmas in float32.
SIGMA, TIMESTEP = 6e-8, 6e-5
EXAMPLE = 2e-6  # absolute; values reach 8


def scheduler(file: Reference, report: Report, options: Options):
  """Compares stage windows, timesteps, sigmas and the jump's two factors."""
  del options
  settings = dict(file.config["scheduler"])
  settings["train_steps"] = settings.pop("num_train_timesteps")
  plan = schedule.make_schedule(**settings)
  sigmas = schedule.training_sigmas(plan.shift, plan.train_steps)
  jumps = [
    renoise.rescale_and_weight(start, plan.gamma)
    for start in file["out/ori_start_sigmas"]
  ]
  for key, ours, limit in (
    ("start_sigmas", plan.start_sigma, SIGMA),
    ("end_sigmas", plan.end_sigma, SIGMA),
    ("ori_start_sigmas", plan.original_start, SIGMA),
    ("timestep_ratios", plan.span, SIGMA),
    ("init_sigmas", sigmas, SIGMA),
    ("init_timesteps", plan.train_steps * sigmas, TIMESTEP),
    ("renoise_alpha_beta", np.array(jumps), 1e-12),
  ):
    if f"out/{key}" in file:
      report.compare(f"out/{key}", ours, limit, 1)
  for key in file.arrays:
    run, *what = key.split("/")
    if what[:1] == ["timesteps_per_stage"]:
      report.compare(key, plan.timesteps[int(what[1])], TIMESTEP, 1)
    elif what[:1] == ["sigmas_per_stage"]:
      report.compare(key, plan.ratios, TIMESTEP, 1)
    elif what[:1] == ["set_timesteps"]:
      stage, steps = (int(x.lstrip("stagen")) for x in what[1:3])
      timesteps, sigmas = schedule.inference_table(plan, stage, steps)
      ours = {"timesteps": timesteps, "sigmas": sigmas}[what[3]]
      report.compare(key, ours, TIMESTEP, 1)
  if "in/step/sample" in file:
    _steps(report, plan)


def _steps(report: Report, plan: schedule.Schedule):
  """Three Euler steps through the last stage, from recorded velocities."""
  file = report.file
  count = len(file.under("in/step/model_output"))
  x, sigmas = file["in/step/sample"], None
  stage = min(1, plan.stages - 1)
  _, sigmas = schedule.inference_table(plan, stage, count)
  for i, change in enumerate(np.diff(sigmas)):
    x = euler_step(x, file[f"in/step/model_output{i}"], change)
    report.compare(f"out/step/prev_sample{i}", x, EXAMPLE, 1)


def block_noise(file: Reference, report: Report, options: Options):
  """Compares the covariance, a factor's noise, and what blocks sum to."""
  del options
  gamma = file.config["gamma"]
  covariance = renoise.block_covariance(gamma)
  report.compare("out/intended_cov", covariance, 1e-6, 1)
  eigenvalues = np.linalg.eigvalsh(np.asarray(covariance, np.float64))
  report.compare("out/eigvals_cov_f64", eigenvalues, 1e-6, 1)
  factor = file["out/scale_tril"]
  report.compare("out/scale_tril", _lower(gamma), 2e-3, 1)
  report.compare("out/eigvals_LLt", eigenvalues, 2e-3, 1)
  _, C, T, H, W = file["out/small_noise"].shape
  eps = file["in/small_eps"].reshape(-1, C, T, H // 2, W // 2, 2, 2)
  eps = eps.transpose(0, 2, 3, 5, 4, 6, 1).reshape(-1, T, H, W, C)
  ours = renoise.block_noise(jnp.asarray(eps), gamma, jnp.asarray(factor))
  report.compare("out/small_noise", np.moveaxis(ours, -1, 1), 1e-6, 1)
  # statistics of drawn noise: five standard errors
  shape = file.config["shape_large"]
  size = (shape[0], shape[2], shape[3], shape[4], shape[1])
  noise = renoise.block_noise(jax.random.normal(jax.random.key(0), size), gamma)
  blocks = np.asarray(noise).reshape(
    size[0], size[1], size[2] // 2, 2, size[3] // 2, 2, size[4]
  )
  blocks = blocks.transpose(0, 1, 2, 4, 6, 3, 5).reshape(-1, 4)
  error = 5 * 2 / np.sqrt(len(blocks))
  report.compare("out/empirical_cov", np.cov(blocks.T), error, 1)
  report.compare("out/empirical_mean", blocks.mean(0), error, 1)
  sums = blocks.sum(1)
  report.compare("out/block_sum_absmax", np.abs(sums).max(), 0.05, 1)
  report.compare("out/block_sum_std", sums.std(), 0.05, 1)


def _lower(gamma: float) -> np.ndarray:
  """The covariance's lower triangular factor, as close to it as it gets."""
  covariance = (1 + gamma) * np.eye(4) - gamma * np.ones((4, 4))
  return np.linalg.cholesky(covariance + 1e-12 * np.eye(4))


def place_table(file: Reference, report: Report, options: Options):
  """Compares the sin-cos table, its crops, and timestep features."""
  del options
  c = file.config
  size, patch = c["pos_embed_max_size"], c["patch_size"]
  base = c["sample_size"] // patch
  look = lambda dim, yx: positions.sincos_2d(
    jnp.asarray(yx, jnp.float32).reshape(1, -1, 2),
    jnp.asarray(positions.sincos_table(size, dim // 2, base)),
  )
  grid = lambda y, x: np.stack(np.meshgrid(y, x, indexing="ij"), -1)
  for key, theirs in file.under("out/").items():
    if key.startswith("crop"):
      height, width, full = _crop(key, patch)
      y, x = (
        (size - f) // 2 + (np.arange(n) + 0.5) * (f / n) - 0.5
        for n, f in zip((height, width), full, strict=True)
      )
      ours = look(c["embed_dim"], grid(y, x))
    elif key == "timestep_embedding_256":
      ours = positions.timestep_features(file["in/timesteps"])
      report.compare(f"out/{key}", ours, 1e-4, 1)
      continue
    elif key == "table1536_rows":
      ours = look(1536, [(0, 0), (3, 7), (96, 100), (191, 190)])[0]
    elif key in CORNERS:
      y, x = (
        np.arange(n) + f
        for n, f in zip(theirs.shape[:2], CORNERS[key](size), strict=True)
      )
      ours = look(c["embed_dim"], grid(y, x)).reshape(theirs.shape)
    else:
      continue
    report.compare(f"out/{key}", ours, EXAMPLE, 1)


# Where parts of the table begin: y, x.
CORNERS = {
  "table_corner": lambda size: (0, 0),
  "table_last": lambda size: (size - 4, size - 4),
  "table_mid": lambda size: (size // 2 - 6, size // 2 - 4),
}


def _crop(key: str, patch: int):
  """Height, width and the target's size, in patches, of a crop's name."""
  sizes = [
    [int(n) // patch for n in part.split("x")]
    for part in key.split("_")
    if "x" in part and part[0].isdigit()
  ]
  return (*sizes[0], sizes[-1])


def stage_lengths(file: Reference, report: Report, options: Options):
  """Compares how the released code shares out the lengths of its samples."""
  del options
  rows = []
  for row in file["out/rows"].tolist():
    frames, per_unit, group, limit, rank, step = row[:6]
    units = 1 + (frames - 1) // per_unit
    limit = units + group if limit == -1 else limit
    lengths = history.synced_units(rank, step, 3, units, group, limit)
    rows.append(row[:6] + list(lengths))
  report.compare("out/rows", np.array(rows), 0.0, 1)


def examples(file: Reference, report: Report, options: Options):
  """Compares the noisy clips, timesteps and targets of training."""
  del options
  pipe = file.config["pipe"]
  ratios = pipe.get("sample_ratios", [1, 1, 1])
  plan = schedule_of(pipe, len(ratios))
  latent = channels_last(file["in/latent"])
  for k, level in enumerate(resample.pyramid(latent, plan.stages)):
    key = f"out/latents_list/{k}"
    report.compare(key, channels_first(level), EXAMPLE, 1)
  samples = list(
    recorded(file, latent, flow_of(pipe, plan, file.config["case"]), patch=1)
  )
  rows, draws = packed(samples)
  inputs = functools.partial(objective.training_inputs, schedule=plan)
  out = jax.jit(inputs)(rows, draws)
  by_column = collections.defaultdict(list)
  for i, sample in enumerate(samples):
    ratio = plan.ratios[int(sample.u * plan.train_steps)]
    by_column[sample.column].append(
      (
        out.timestep[0, i],
        ratio,
        unpacked(out.x[0], rows, samples, i),
        unpacked(out.target[0], rows, samples, i)[-1],
      )
    )
  timesteps = []
  for c, found in sorted(by_column.items()):
    timestep, ratio, clips, target = zip(*found, strict=True)
    timesteps.append(np.array(timestep))
    report.compare(f"out/timesteps/{c}", timesteps[-1], TIMESTEP, 1)
    ratio = np.array(ratio).reshape(-1, 1, 1, 1, 1)
    report.compare(f"out/ratios/{c}", ratio, SIGMA, 1)
    for i, clip in enumerate(zip(*clips, strict=True)):
      report.compare(f"out/stage_input/s{c}/c{i}", np.stack(clip), EXAMPLE, 1)
    report.compare(f"out/targets/{c}", np.stack(target), EXAMPLE, 1)
  key = "out/timesteps_interleaved"
  report.compare(key, np.stack(timesteps, -1).reshape(-1), TIMESTEP, 1)
