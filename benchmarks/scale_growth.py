"""How the curriculum's cost grows, by formula and beside what is compiled."""

import dataclasses
import pathlib

import scale

from pyramid_jax.cost import chips, plan, report

BESIDE = ("cells", "compute", "memory", "network", "step", "nothing overlaps")


def beside_compiled() -> str:
  """What the formula has, as a share of what the compiled programs have."""
  groups = {title: [] for title in scale.MODELS.values()}
  for cell in compiled_cells():
    entry = scale.planned(cell)
    if "step" in entry:
      shares = beside(scale.estimated(cell), entry)
      title = scale.MODELS[cell.model]
      if cell.machine in scale.LARGEST:
        title = f"{title} 768p, {cell.machine} chips"
      groups.setdefault(title, []).append(shares)
  rows = [
    (f"{title}: {len(found)}", *map(reach, zip(*found, strict=True)))
    for title, found in groups.items()
  ]
  return report.table(BESIDE, rows, markdown=True)


def compiled_cells() -> list[scale.Cell]:
  """Those that are kept and recompute something, each once."""
  others = (c for machine in scale.MACHINES for c in scale.choices(machine))
  found = {c.key: c for c in [*scale.cells(), *others, *scale.largest()]}
  return [c for c in found.values() if c.remat != "none" and scale.known(c)]


def beside(guess: dict, entry: dict) -> list[float]:
  """One cell's share of each part."""
  parts = ("compute", "memory", "network", "step", "hours_serial")
  return [guess[name] / entry[name] for name in parts]


def reach(shares: tuple[float, ...]) -> str:
  """From the least to the most."""
  least, most = f"{min(shares):.0%}", f"{max(shares):.0%}"
  return least if least == most else f"{least} to {most}"


COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
UNITS = (16, 24, 31, 48, 64, 80, 96)
SHAPES = {8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8",
          256: "4x8x8", 512: "8x8x8", 1024: "8x8x16"}  # fmt: skip


def by_chips(stage: str) -> list[tuple[float, float]]:
  """Chip-hours of a stage on 8 to 1024 v5p chips: overlapping, serial.

  Rows stay 128: more chips than that split the heads and the MLP, fewer than
  the tables' take them in parts of as many a device.
  """
  out = []
  for count in COUNTS:
    mesh = {"data": 2} if count <= 128 else {"tensor": count // 128}
    target = chips.target(f"v5p:{SHAPES[count]}")
    cell = scale.Cell("mmdit", stage, "v5p-128", mesh)
    config = cell.config
    parts = max(cell.target.chips // count, 1)
    train = dataclasses.replace(config.train, microbatches=parts)
    config = dataclasses.replace(config, train=train)
    run = scale.formula(cell, config, target)
    out.append(span(run, run.chip_hours))
  return out


def compiled_spans(stage: str) -> list[tuple[int, float, float]]:
  """Of the compiled cells that the curve passes: chips, least, most."""
  machines, out = ("v5p-128", *scale.LARGEST), []
  for machine in machines:
    cell = scale.Cell("mmdit", stage, machine)
    if entry := scale.planned(cell):
      count = cell.target.chips
      out.append((count, entry["chip_hours"], count * entry["hours_serial"]))
  return out


def span(run, least: float) -> tuple[float, float]:
  """What a run costs if all overlaps, and if nothing does."""
  return least, least * run.estimate.serial / run.estimate.step


def longest(units: int) -> int:
  """Latent tokens of the longest segment of a 768p clip."""
  full = 768 * 1280 // 16**2
  return 2 * full + full // 4 + full // 16 * max(units - 3, 0)


def by_units() -> list[tuple[float, float]]:
  """Chip-seconds a sample of 768p clips of so many units on 64 v5p chips."""
  cell = scale.Cell("mmdit", "768p", "v5p-128")
  config, target = cell.config, cell.target
  out = []
  for units in UNITS:
    frames = 1 + 8 * (units - 1)
    tokens = max(-(-(longest(units) + 256) // 512) * 512 - 256, 16128)
    source = dataclasses.replace(
      config.latents.sources[0], path="", frames=(frames, frames)
    )
    latents = dataclasses.replace(
      config.latents, sources=(source,), latent_tokens=tokens
    )
    changed = dataclasses.replace(config, latents=latents)
    run = plan.formula(changed, target)
    out.append(span(run, target.chips / run.samples))
  return out


def picture(path: pathlib.Path) -> None:
  """How cost grows with chips and with clip length."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
  for number, stage in enumerate(scale.STAGES):
    low, high = zip(*by_chips(stage), strict=True)
    (drawn,) = left.plot(COUNTS, low, marker="o", markersize=3, label=stage)
    left.fill_between(COUNTS, low, high, alpha=0.25, color=drawn.get_color())
    for count, least, most in compiled_spans(stage):
      at = count * 1.08 ** (number - 1.5)  # beside each other
      left.plot([at] * 2, [least, most], marker="_", markersize=6,
                linewidth=2, color=drawn.get_color())  # fmt: skip
  left.set(
    xscale="log", xlabel="v5p chips", ylabel="chip-hours",
    title="a stage of the curriculum", ylim=(0, None),
  )  # fmt: skip
  left.set_xticks(COUNTS, COUNTS, fontsize=7)
  left.minorticks_off()
  left.set_ylim(0, 1.25 * left.get_ylim()[1])  # the legend covers no line
  left.legend(fontsize=8, ncols=2, loc="upper left")
  low, high = zip(*by_units(), strict=True)
  right.plot(UNITS, low, marker="o", markersize=3)
  right.fill_between(UNITS, low, high, alpha=0.25)
  right.set(
    xlabel="units of a clip (8 frames each)", ylabel="chip-seconds a sample",
    title="768p, 64 v5p chips", ylim=(0, None),
  )  # fmt: skip
  figure.tight_layout()
  figure.savefig(path, dpi=80)


def of_largest() -> dict[str, str]:
  """Where the curve ends, by formula and compiled."""
  (cell,) = scale.largest()
  count, entry = cell.target.chips, scale.planned(cell)
  each = [(e["chip_hours"], count * e["hours_serial"])
          for e in (scale.estimated(cell), entry)]  # fmt: skip
  curve, plan = (f"{least:,.0f} to {most:,.0f}" for least, most in each)
  return {"largest": f"{count:,}", "curve": curve, "plan": plan}
