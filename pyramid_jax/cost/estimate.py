"""Roofline: how long a step takes if compute, memory or network binds.

Efficiencies are assumptions, printed with every estimate: no accelerator was
at hand to measure them. The step is taken to last as long as its slowest part;
`Estimate.serial` is the other end, nothing overlapping.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pyramid_jax import sharding
from pyramid_jax.config import Config
from pyramid_jax.cost import flops, network
from pyramid_jax.cost.chips import Chip, Target
from pyramid_jax.cost.compile import Compiled
from pyramid_jax.cost.hlo import Collective
from pyramid_jax.cost.workload import Workload, measure, model_flops
from pyramid_jax.models.dit import make_dit

DAY = 86400


class Efficiency(NamedTuple):
  """Share of a published peak that is assumed to be reached."""

  matmul: float = 0.6
  attention: float = 0.35  # heads of 64 fill half of a TPU's matrix unit
  memory: float = 0.8
  network: float = 0.7

  def __str__(self) -> str:
    return ", ".join(f"{k} {v:.0%}" for k, v in self._asdict().items())


class Estimate(NamedTuple):
  """Seconds of a program on a device.

  Attributes:
    compute: of matrix products.
    memory: of HBM traffic.
    network: of exchanges within and between slices.
  """

  compute: float
  memory: float
  network: float

  @property
  def step(self) -> float:
    """If everything overlaps with what binds."""
    return max(x for x in self if not math.isnan(x))

  @property
  def serial(self) -> float:
    """If nothing overlaps."""
    return sum(x for x in self if not math.isnan(x))

  @property
  def binds(self) -> str:
    """The slowest part."""
    known = {k: v for k, v in self._asdict().items() if not math.isnan(v)}
    return max(known, key=known.get)


def roofline(
  chip: Chip,
  work: flops.Flops,
  traffic: float,
  sent_fast: float,
  sent_slow: float = 0.0,
  assumed: Efficiency = Efficiency(),  # noqa: B008  immutable
) -> Estimate:
  """Seconds from operations and bytes of one device.

  Args:
    chip: its peaks.
    work: executed.
    traffic: bytes of HBM.
    sent_fast: bytes over the fast network, as if over all links.
    sent_slow: bytes over the slow one.
    assumed: shares of the peaks.
  """
  dense = work.dense / (chip.peak * assumed.matmul)
  attention = work.attention / (chip.peak * assumed.attention)
  network = sent_fast / chip.link + sent_slow / chip.slow
  return Estimate(
    dense + attention,
    traffic / (chip.bandwidth * assumed.memory),
    network / assumed.network,
  )


def executed(
  compiled: Compiled, config: Config, visited: float, *, train: bool
) -> flops.Flops:
  """Operations that a device executes.

  Attention in a custom kernel, which no compiler counts, is added from the
  pairs in the tiles that it visits on a device; otherwise it is among the
  dense.
  """
  if not compiled.kernels:
    return flops.Flops(compiled.flops, 0.0)
  attention = flops.kernel_attention(config.model, visited, train=train)
  return flops.Flops(compiled.flops, attention)


def split(
  collectives: Sequence[Collective], target: Target
) -> tuple[float, float]:
  """Bytes sent over the fast and over the slow network.

  What has a part of the fast links counts as if all were as busy as those. A
  ring of a group with members in several islands leaves each of them once, and
  theirs are as many rings as it has members there: so of what a member sends,
  that part goes over its slow network, and all of it to neighbours in the
  island, where there are any. Of an all-to-all every other member gets an equal
  part straight.
  """
  fast = slow = 0.0
  for c in collectives:
    far = c.far or (c.group or target.devices) > target.fast
    near = c.near if c.group else target.fast
    if far and c.kind == "all-to-all":
      part = c.size / (c.group or target.devices)
      slow += part * ((c.group or target.devices) - near)
      fast += part * (near - 1) / c.links
      continue
    if far:
      slow += c.sent / near
    if not far or near > 1:
      fast += c.sent / c.links
  return fast, slow


def between_slices(gradients: float, slices: int) -> float:
  """Bytes a device sends to sum its `gradients` bytes over the slices."""
  return 2 * gradients * (slices - 1) / slices


class Run(NamedTuple):
  """What a training run comes to.

  Attributes:
    estimate: of a step.
    work: executed by a device.
    model: FLOPs of a step that the mathematics needs, all devices.
    samples: a second.
    tokens: valid ones a second, latent and text.
    days: of all steps.
    chip_hours: likewise.
    utilisation: model FLOPs by the peak (MFU).
  """

  estimate: Estimate
  work: flops.Flops
  model: float
  samples: float
  tokens: float
  days: float
  chip_hours: float
  utilisation: float


def run(
  estimate: Estimate,
  work: flops.Flops,
  config: Config,
  workload: Workload,
  target: Target,
) -> Run:
  """What a transformer's run of `config.train.steps` comes to."""
  rows, seconds = config.latents.rows, estimate.step
  model = model_flops(config, workload)
  days = config.train.steps * seconds / DAY
  return Run(
    estimate,
    work,
    model,
    rows * workload.samples / seconds,
    rows * (workload.latent + workload.text) / seconds,
    days,
    24 * days * target.chips,
    model / seconds / (target.total * target.chip.peak),
  )


def days_alike(run: Run, other: Config, target: Target) -> float:
  """Days of another stage of the curriculum at this one's utilisation."""
  need = model_flops(other, measure(other, target.chip.tile))
  peak = target.total * target.chip.peak
  return other.train.steps * need / (peak * run.utilisation) / DAY


def by_formula(
  config: Config, workload: Workload, target: Target
) -> tuple[Estimate, flops.Flops]:
  """A step where nothing was compiled; whether it fits is not known.

  Dense operations on padded rows, twice forwards where remat keeps no matmuls;
  attention by kernels on the visited tiles; parameters gathered for every pass
  and gradients scattered over fsdp, as they are used; activations summed over
  tensor after attention and MLP of every pass; HBM as `moved`.
  """
  data, model, mesh = config.latents, config.model, mesh_of(config, target)
  padded = (model, data.latent_tokens, data.text_tokens, data.segments, 0.0)
  passes = 2 if model.remat in ("none", "matmuls") else 3
  dense = flops.training(*padded).dense
  dense += (passes - 2) * flops.forward(*padded).dense
  rows = data.rows / target.total
  visited = rows * workload.visited * repeated(config, mesh)
  work = flops.Flops(
    rows * dense, flops.kernel_attention(model, visited, train=True)
  )
  parameters = make_dit(model).size / mesh["tensor"]
  times = passes * config.train.microbatches
  tokens = rows * mesh["tensor"] * (data.latent_tokens + data.text_tokens)
  layers = model.layers + model.single_layers
  sums = 2 * passes * layers * 2 * tokens * model.heads * model.head_dim
  used, gathered, summed = USED * parameters, times, config.train.microbatches
  if target.platform == "tpu":
    # where the compiler sums, in place of gathering and scattering
    whole = mesh["fsdp"] == target.devices
    few = model.heads * model.head_dim < FEW * mesh["fsdp"]
    summed *= 2 if whole or few else 1
    gathered *= 2 if whole and target.devices >= MANY else 1
  sent = {
    "fsdp": used * (gathered + summed),
    "tensor": 2 * sums,
    "data": 2 * used / mesh["fsdp"],
  }
  fast, slow, joined = 0.0, 0.0, network.in_order(target)
  # devices that the axes up to this one join, innermost first
  reach = mesh["sequence"]
  for axis in ("tensor", "fsdp", "data"):
    groups = network.along(mesh, axis, target.devices)
    inner, reach = reach, reach * mesh[axis]
    size = sent[axis] * (mesh[axis] - 1) / mesh[axis]
    far, near = reach > target.fast, 1.0
    if target.devices > target.fast:  # islands in it; slices are whole
      near = max(target.fast / inner, 1.0)
    if far:
      slow += size / near
    if not far or near > 1:
      fast += size / joined.links(groups)
  traffic = moved(config, parameters, target)
  return roofline(target.chip, work, traffic, fast, slow), work


# Bytes of a parameter as it is used, and of its gradient as that is summed: a
# third of the MM-DiT's, those of the modulation, are used in float32.
USED = 2 * 2 / 3 + 4 / 3
MANY = 64  # devices, all of a slice, between which nothing is gathered as such
FEW = 16  # rows of a kernel, a bfloat16 tile: of fewer a device's are summed

# By platform, what a device's HBM moves, in units of: a bfloat16 value of each
# token, layer and width, where every device of the tensor axis moves all of
# them; likewise where they split it; a byte of each parameter that a device
# gathers. Least squares on the compiled MM-DiT cells of docs/scale.json, within
# 9% of each; docs/scale.md says how far off the others are.
MOVED = {"tpu": (159.0, 257.0, 28.0), "cuda": (0.0, 283.0, 29.0)}
STATE = 36  # bytes: five float32 read (with the gradient), four written


def moved(config: Config, parameters: float, target: Target) -> float:
  """Bytes of a device's HBM in a step, by formula.

  `parameters`: that the devices of the fsdp axis hold together.
  """
  data, model, mesh = config.latents, config.model, mesh_of(config, target)
  row = data.latent_tokens + data.text_tokens
  tokens = data.rows * row / (mesh["data"] * mesh["fsdp"] * mesh["sequence"])
  layers = model.layers + model.single_layers
  values = 2 * tokens * layers * model.heads * model.head_dim
  whole, split, weights = MOVED[target.platform]
  return (
    (whole + split / mesh["tensor"]) * values
    + weights * parameters * config.train.microbatches
    + STATE * parameters / mesh["fsdp"]
  )


def repeated(config: Config, mesh: dict[str, int]) -> int:
  """Devices that compute the same attention, since heads do not split."""
  return mesh["tensor"] if config.model.heads % mesh["tensor"] else 1


def mesh_of(config: Config, target: Target) -> dict[str, int]:
  """The axes of the config's mesh on a machine."""
  return sharding.mesh_shape(config.mesh, target.total)
