"""Compiles a program for a machine that is not there; reads what it needs."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import re
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from pyramid_jax.config import ConfigError
from pyramid_jax.cost import arrays, flops, gpu_targets, network
from pyramid_jax.cost.chips import Target
from pyramid_jax.cost.hlo import Collective, Module
from pyramid_jax.cost.jobs import Job

# For some of them XLA finds no tiles where it has no GPU to try them on.
FUSED_PRODUCTS = "matrix products fused with what feeds them"
UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a program; every figure is per device.

  Attributes:
    name: of the job.
    parts: bytes of parameters, optimizer, ..., as they lie on the mesh.
    temp: bytes of activations and whatever else lives during a step.
    total: bytes of HBM at the most.
    limit: bytes there are.
    fits: whether total <= limit.
    largest: (bytes, shape, operation), where it does not fit.
    flops: executed, without custom kernels, loops times their length.
    counted: FLOPs as the compiler counts: bodies of loops once.
    kernels: whether attention is a custom kernel, not in `flops`.
    unknown: loops of unknown length.
    traffic: bytes read from and written to the HBM.
    collectives: what the devices exchange.
    seconds: of compiling.
    times: how often the program runs for one clip.
    without: what the compiler had to do without.
  """

  name: str
  parts: dict[str, float]
  temp: float
  total: float
  limit: float
  fits: bool
  largest: list[tuple[float, str, str]]
  flops: float
  counted: float
  kernels: bool
  unknown: int
  traffic: float
  collectives: list[Collective]
  seconds: float
  times: int = 1
  without: str = ""


def devices(target: Target) -> list[Any]:
  """The devices of a slice, which need not be there.

  Raises:
    ConfigError: the compiler is not installed, with the command that does; or
      a shape that such a chip does not come in.
  """
  version = importlib.metadata.version("jax")
  if target.platform == "cpu":
    found = jax.devices("cpu")
    if len(found) < target.devices:
      raise ConfigError(
        f"--topology={target.topology}: this process has {len(found)} CPU "
        "devices; give --topology before JAX starts, or a smaller one."
      )
    return found[: target.devices]
  if target.platform == "cuda":
    return gpu_targets.devices(target.chip.name, target.devices)
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError(
      f"planning for {target.topology} needs the TPU compiler; it needs no "
      f'TPU: pip install "jax[tpu]=={version}"'
    )
  # The two cores of a v4 chip are one device where programs run.
  given = {"chip_config_name": "megacore"} if target.chip.name == "v4" else {}
  if target.host:
    given["chips_per_host_bounds"] = list(target.host)
  try:
    return topologies.get_topology_desc(
      platform="tpu", topology_name=target.topology, **given
    ).devices
  except Exception as error:  # libtpu has no class of its own
    reason = str(error).splitlines()[0]
    raise ConfigError(f"--topology={target.topology}: {reason}") from error


def compile_job(
  job: Job,
  mesh: jax.sharding.Mesh,
  target: Target,
  limit: float,
  *,
  quick: bool = False,
) -> Compiled:
  """Compiles a job for a mesh of the target's devices.

  Args:
    job: what to compile.
    mesh: of the target's devices.
    target: the machine.
    limit: bytes of HBM there are.
    quick: the compiler takes less time to make a fast program; it may need
      more memory than the real one.

  Raises:
    ConfigError: the compiler fails at something other than memory.
  """
  with jax.set_mesh(mesh):
    program = job.function.trace(*job.args, **job.static)
    lowered = program.lower(lowering_platforms=(target.platform,))
    start = time.perf_counter()
    compiled, message, without = attempt(lowered, job.name, target, quick)
    seconds = time.perf_counter() - start
  count = flops.traced(program.jaxpr, target.platform)
  size = math.prod(mesh.shape.values())
  parts = {name: tree_bytes(tree) for name, tree in job.parts.items()}
  if compiled is None:
    found = _exhausted(message, sum(parts.values()), program.jaxpr, size)
  else:
    joined = network.of_devices(target, mesh.devices.ravel())
    found = _read(compiled, limit, joined)
  return Compiled(
    name=job.name,
    parts=parts,
    temp=found["total"] - sum(parts.values()),
    limit=limit,
    flops=count.flops / size,
    kernels=bool(count.kernels),
    unknown=count.unknown,
    seconds=seconds,
    times=job.times,
    without=without,
    **found,
  )


def attempt(
  lowered: jax.stages.Lowered, name: str, target: Target, quick: bool
) -> tuple[jax.stages.Compiled | None, str, str]:
  """(program, message, what it is without); without memory, no program.

  Raises:
    ConfigError: it fails at something other than memory.
  """
  options = {"exec_time_optimization_effort": -1.0} if quick else {}
  attempts = {"": options}
  if target.platform == "cuda":
    attempts[FUSED_PRODUCTS] = options | {"xla_gpu_enable_triton_gemm": False}
  for without, chosen in attempts.items():
    try:
      return lowered.compile(compiler_options=chosen), "", without
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" in str(error):
        return None, str(error), without
      failed = error
  raise ConfigError(
    f"the compiler for {target.topology} fails at the {name}: "
    f"{str(failed).splitlines()[0]}. Try it with{'out' if quick else ''} "
    "--quick, or with other rows, microbatches, mesh or jaxlib."
  ) from failed


def _exhausted(message: str, arguments: float, jaxpr, size: int) -> dict:
  """What is known of a program that the compiler refuses."""
  total, largest = exhausted(message, arguments)
  return dict(
    total=total, fits=False, counted=math.nan, traffic=math.nan, collectives=[],
    largest=largest or arrays.largest(jaxpr, size),
  )  # fmt: skip


def _read(compiled, limit: float, joined: network.Network) -> dict:
  """What a compiled program says of itself."""
  module = Module(_text(compiled))
  memory = compiled.memory_analysis()
  total = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
  return dict(
    total=total,
    fits=total <= limit,
    largest=module.largest() if total > limit else [],
    counted=float((compiled.cost_analysis() or {}).get("flops", math.nan)),
    traffic=module.traffic(),
    collectives=module.collectives(joined),
  )


def _text(compiled) -> str:
  """The optimized program.

  Raises:
    ConfigError: a compiler too new for this JAX to read.
  """
  try:
    return compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(
      "the installed libtpu is not the one of this JAX, which cannot read its "
      "programs: pip install "
      f'"jax[tpu]=={importlib.metadata.version("jax")}"'
    ) from error


def tree_bytes(tree: Any) -> float:
  """Bytes a device holds of a tree of shapes with their places."""

  def one(x):
    local = x.sharding.shard_shape(x.shape)
    return math.prod(local) * np.dtype(x.dtype).itemsize

  return float(sum(map(one, jax.tree.leaves(tree))))


def exhausted(
  message: str, arguments: float
) -> tuple[float, list[tuple[float, str, str]]]:
  """(bytes needed, largest buffers) from what a compiler says it lacks.

  Where the temporaries alone are more than there is, it stops early: it then
  counts neither the `arguments` nor any buffer.
  """
  size = r"([\d.]+)([BKMG])\b"
  used = re.search(rf"Used {size} of", message)
  early = re.search(rf"HLO temporaries \({size}\)", message)
  total = _bytes(used) if used else math.nan
  if early:
    total = _bytes(early) + arguments
  largest = []
  for entry in re.split(r"\n\s+\d+\. Size: ", message)[1:]:
    size = re.match(r"([\d.]+)([BKMG])", entry)
    shape = re.search(r"Shape: ([a-z]\w*\[[\d,]*\])", entry)
    what = re.search(r'op_name="([^"]*)"', entry)
    largest.append(
      (
        _bytes(size),
        shape[1] if shape else "?",
        what[1] if what else "argument",
      )
    )
  return total, largest[:8]


def _bytes(match: re.Match) -> float:
  return float(match[1]) * UNITS[match[2]]
