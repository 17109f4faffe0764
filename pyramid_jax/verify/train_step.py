"""One whole training loss: dropped prompts, noise, model, loss, gradients."""

import jax
import numpy as np

from pyramid_jax.convert.models import DIT
from pyramid_jax.convert.released import STATISTICS
from pyramid_jax.data.latents import NullPrompt
from pyramid_jax.flow import objective
from pyramid_jax.verify import dit
from pyramid_jax.verify.file import Reference
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report
from pyramid_jax.verify.sampler import channels_last, schedule_of
from pyramid_jax.verify.samples import flow_of, packed, recorded, unpacked

LOSS, CLIP = 1e-4, 1e-4
DROPPED = 0.1  # prompts are dropped where the first draw is at most this


def run(file: Reference, report: Report, options: Options):
  """Compares predictions, targets, the loss and every gradient."""
  config, model, params = dit.load(file, options)
  case = file.config["case"]
  pipe = {
    **case.get("pipe", {}), "sample_ratios": file.config["sample_ratios"],
  }  # fmt: skip
  plan = schedule_of(pipe, len(pipe["sample_ratios"]))
  statistics = STATISTICS["flux" if config.kind == "flux" else "sd3"]
  video = channels_last(file["in/video"])
  latent = np.stack([statistics.normalise(x) for x in video])
  samples = list(
    recorded(
      file,
      latent,
      flow_of(pipe, plan, case),
      config.patch,
      first_draw=1,
      prompts=_prompts(file),
      positions=config.history_positions,
      table_size=config.grid,
    )
  )
  rows, draws = packed(samples)
  inputs = objective.training_inputs(rows, draws, plan)
  for i, sample in enumerate(samples):
    if sample.row == 0:
      for j, clip in enumerate(unpacked(inputs.x[0], rows, samples, i)):
        key = f"mid/sample/s{sample.column}/c{j}"
        report.middle(key, lambda clip=clip, i=i, j=j: _rows(
          samples, i, lambda n: unpacked(inputs.x[0], rows, samples, n)[j]
        ))  # fmt: skip

  def loss(params):
    velocity = model.apply(params, inputs.x, rows, inputs.timestep)
    sums = objective.loss_sums(velocity, inputs.target, rows, plan.stages)
    return sums.mean(), velocity

  with options.on_mesh():
    (value, velocity), grads = options.jit(
      jax.value_and_grad(loss, has_aux=True)
    )(params)
  for name, tokens in (("pred", velocity), ("target", inputs.target)):
    for i, sample in enumerate(samples):
      key = f"out/{name}/{sample.column}"
      if sample.row == 0 and key in file:
        clip = lambda n, tokens=tokens: unpacked(tokens[0], rows, samples, n)[
          -1
        ]
        report.compare(key, _rows(samples, i, clip), CLIP)
  report.compare("out/loss", value, LOSS)
  ours = DIT.to_torch(config, jax.device_get(grads))
  report.compare_gradients("grad/", ours)


def _rows(samples, first: int, clip) -> np.ndarray:
  """The clips of all samples of a column."""
  column = samples[first].column
  mine = [i for i, s in enumerate(samples) if s.column == column]
  return np.stack([clip(i) for i in mine])


def _prompts(file: Reference) -> list[NullPrompt]:
  """The prompt of every row; the empty one where it was dropped."""
  result = []
  null = file["in/null/mask"].astype(bool)
  for i, draw in enumerate(file["in/draw00/rand"]):
    mask = file["in/text/mask"][i].astype(bool)
    given = NullPrompt(
      file["in/text/embeds"][i][mask], file["in/text/pooled"][i]
    )
    empty = NullPrompt(file["in/null/embeds"][null], file["in/null/pooled"])
    result.append(empty if draw <= DROPPED else given)
  return result
