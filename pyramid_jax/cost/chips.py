"""The accelerators: peaks as their makers publish them, and how they connect.

Every figure is of one device as JAX counts devices: a whole chip, but for
tpu7x, whose chips are two devices each with half of everything.
"""

import dataclasses
import math
import re

from pyramid_jax.attention import tiles
from pyramid_jax.config import ConfigError

GIB = 2**30
GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
DGX_A100 = "https://images.nvidia.com/aem-dam/Solutions/Data-Center/nvidia-dgx-a100-datasheet.pdf"  # noqa: E501
DGX_H100 = "https://resources.nvidia.com/en-us-dgx-systems/ai-enterprise-dgx"
H200 = "https://www.nvidia.com/en-us/data-center/h200/"
# Of a GPU's memory, what JAX takes for programs where launch/slurm.sh starts
# them; CUDA and NCCL need some of the rest.
GPU_SHARE = 0.92
GPU_80GB = 84_929_347_584  # that CUDA reports of one sold as 80 GB
HOST = 2  # chips along the first two dimensions of a TPU's host


@dataclasses.dataclass(frozen=True)
class Chip:
  """A device.

  Attributes:
    name: as in --topology.
    peak: bfloat16 matrix FLOP/s, dense.
    hbm: bytes.
    bandwidth: of the HBM, bytes/s.
    link: fast network (ICI, NVLink), bytes/s sent by a device, all links.
    slow: network between slices or nodes (DCN, InfiniBand), bytes/s sent.
    island: devices that the fast network joins.
    kind: the beginning of what JAX calls it.
    source: where the figures stand.
    devices: per chip.
    torus: dimensions of the fast network; 0 where a switch joins all.
  """

  name: str
  peak: float
  hbm: float
  bandwidth: float
  link: float
  slow: float
  island: int
  kind: str
  source: str
  devices: int = 1
  torus: int = 0

  @property
  def tile(self) -> tuple[int, int]:
    """(query, key) block of the attention kernel, forward."""
    found = tiles.of_kind(self.kind)
    return getattr(found, "forward", found)[:2]

  def __str__(self) -> str:
    return (
      f"{self.name}: {self.peak / 1e12:,.0f} bfloat16 TFLOP/s, HBM "
      f"{self.bandwidth / 1e9:,.0f} GB/s, fast network {self.link / 1e9:,.0f} "
      f"GB/s, slow network {self.slow / 1e9:,.4g} GB/s a device"
    )


# Where a page gives the interconnect in both directions (v5p, tpu7x), `link` is
# half of it. `slow` is the host's network cards shared by its chips.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", 275e12, 32 * GIB, 1200e9, 300e9, 6.25e9, 4096, "TPU v4",
         GOOGLE + "v4", torus=3),
    Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9, 3.125e9, 256, "TPU v5 lite",
         GOOGLE + "v5e", torus=2),
    Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9, 6.25e9, 8960, "TPU v5",
         GOOGLE + "v5p", torus=3),
    Chip("v6e", 918e12, 32 * GIB, 1638e9, 400e9, 12.5e9, 256, "TPU v6 lite",
         GOOGLE + "v6e", torus=2),
    Chip("tpu7x", 2307e12 / 2, 96 * GIB, 7380e9 / 2, 300e9, 6.25e9, 18432,
         "TPU7x", GOOGLE + "tpu7x", devices=2, torus=3),
    Chip("a100", 312e12, GPU_80GB, 2039e9, 300e9, 25e9, 8, "NVIDIA A100",
         DGX_A100),
    Chip("h100", 989e12, GPU_80GB, 3350e9, 450e9, 50e9, 8,
         "NVIDIA H100 80GB HBM3", DGX_H100),
    Chip("h200", 989e12, 139 * GIB, 4800e9, 450e9, 50e9, 8, "NVIDIA H200",
         H200),
  )
}  # fmt: skip

# what JAX calls the devices (`device_kind`), by the start of it; the PCIe and
# NVL models of a GPU have other peaks, which the table lacks
KINDS = {
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",  # after the ones that it begins
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
  "TPU7x": "tpu7x",
  "NVIDIA A100": "a100",
  "NVIDIA H100 80GB HBM3": "h100",
  "NVIDIA H200 NVL": "",
  "NVIDIA H200": "h200",
}


def of_kind(device_kind: str) -> Chip | None:
  """The chip that JAX calls so; None if its peaks are not in the table."""
  for start, name in KINDS.items():
    if device_kind.startswith(start):
      return CHIPS.get(name)
  return None


@dataclasses.dataclass(frozen=True)
class Target:
  """The machine that is planned for.

  Attributes:
    platform: tpu, cuda or cpu.
    topology: as libtpu names a slice ("v5p:4x4x8"), or "h100:8", "cpu:8".
    chip: its devices; None for cpu.
    devices: of one slice.
    slices: joined by the slow network.
  """

  platform: str
  topology: str
  chip: Chip | None
  devices: int
  slices: int = 1

  @property
  def total(self) -> int:
    """Devices of all slices."""
    return self.devices * self.slices

  @property
  def chips(self) -> int:
    """Chips of all slices: what is paid for."""
    return self.total // (self.chip.devices if self.chip else 1)

  @property
  def fast(self) -> int:
    """Devices that are joined by the fast network."""
    return min(self.devices, self.chip.island) if self.chip else self.devices

  @property
  def host(self) -> tuple[int, int, int] | None:
    """Chips of a TPU's host in its slice where that is a part of a host."""
    shape = [int(n) for n in self.topology.partition(":")[2].split("x")]
    if self.platform != "tpu" or not any(n % HOST for n in shape[:2]):
      return None
    return (*shape, 1, 1)[:3]

  @property
  def memory(self) -> float:
    """Bytes of a device that a program may take; no limit is known of a CPU."""
    if self.chip is None:
      return math.inf
    return self.chip.hbm * (GPU_SHARE if self.platform == "cuda" else 1)

  def __str__(self) -> str:
    many = f"{self.slices} slices of " if self.slices > 1 else ""
    count = f"{self.chips} chip{'s' * (self.chips > 1)}"
    return f"{many}{self.topology} ({count})"


def target(
  topology: str,
  platform: str = "",
  slices: int = 1,
  slow: float | None = None,
) -> Target:
  """Reads a topology such as "v5p:8x8x16", "h100:8" or "cpu:8".

  `slow`: bytes/s of the slow network in place of the table's.

  Raises:
    ConfigError: names the chips there are, the form of a topology, or the
      largest slice.
  """
  name, _, shape = topology.partition(":")
  name = {"7x": "tpu7x", "v7x": "tpu7x"}.get(name, name)
  if name != "cpu" and name not in CHIPS:
    raise ConfigError(
      f"--topology={topology}: {name!r} is not one of {', '.join(CHIPS)} or "
      "cpu."
    )
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
    raise ConfigError(
      f"--topology={topology} is not a chip and its shape, such as v5p:4x4x8, "
      "v6e:16x16 or h100:8."
    )
  chip = CHIPS.get(name)
  own = "cpu"
  if chip is not None:
    own = "cuda" if chip.kind.startswith("NVIDIA") else "tpu"
  if platform not in ("", own):
    raise ConfigError(
      f"--platform={platform} has no {name}; leave the flag out, or name one "
      "of its topologies."
    )
  if slices < 1:
    raise ConfigError(f"--slices={slices}; the least is 1.")
  if slow is not None and chip is None:
    raise ConfigError(
      "--slow_gbps changes an estimate, and there is none for --topology="
      f"{topology}; leave the flag out."
    )
  if slow is not None:
    chip = dataclasses.replace(chip, slow=slow)
  devices = math.prod(map(int, shape.split("x")))
  devices *= chip.devices if chip else 1
  if own == "tpu":
    _check_slice(topology, chip, shape, devices)
  return Target(own, f"{name}:{shape}", chip, devices, slices)


def _check_slice(topology: str, chip: Chip, shape: str, devices: int) -> None:
  """Refuses what is no slice of a TPU."""
  if len(shape.split("x")) != chip.torus:
    example = "2x2x1"[: 2 * chip.torus - 1]
    raise ConfigError(
      f"--topology={topology}: a slice of {chip.name} has {chip.torus} "
      f"dimensions, such as {chip.name}:{example}."
    )
  sizes = [int(n) for n in shape.split("x")]
  whole = not any(n % HOST for n in sizes[:2])
  if not whole and math.prod(sizes) not in (1, 2, 4):
    near = [-(-n // HOST) * HOST for n in sizes[:2]] + sizes[2:]
    raise ConfigError(
      f"--topology={topology} is {math.prod(sizes)} chips of no whole hosts: "
      f"the first two dimensions are multiples of {HOST}, or the slice is 1, 2 "
      f"or 4 chips of a host; nearest: {chip.name}:{'x'.join(map(str, near))}."
    )
  if devices > chip.island:
    raise ConfigError(
      f"--topology={topology} has {devices:,} devices; a slice of {chip.name} "
      f"has {chip.island:,} at most: give the shape of one and --slices="
      f"{-(-devices // chip.island)}."
    )
