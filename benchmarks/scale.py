"""What the curriculum costs on four machines: makes docs/scale.md.

  python benchmarks/scale.py --compile=8   # plans up to 8 cells more, quickly
  python benchmarks/scale.py --compile=8 --platform=cuda
  python benchmarks/scale.py               # writes the document again

Every cell is compiled by `pyramid-plan` and kept in docs/scale.json; delete an
entry to have it made again. A cell takes minutes on two cores. TPUs need
"jax[tpu]", GPUs "jax[cuda13]" or "jax[cuda12]", no device.
"""

import argparse
import dataclasses
import json
import pathlib
import runpy

from pyramid_jax.cli.plan import prepare
from pyramid_jax.config import Config, from_dict
from pyramid_jax.cost import chips

ROOT = pathlib.Path(__file__).parents[1]
KEPT = ROOT / "docs" / "scale.json"
STAGES = ("image", "384p_2s", "384p_5s", "768p")
MODELS = {"mmdit": "2 B MM-DiT", "miniflux": "miniFLUX"}
# name -> topology, mesh; Google counts v5p by cores, two a chip
MACHINES = {
  "v5p-128": ("v5p:4x4x4", {}),
  "v6e-256": ("v6e:16x16", {"tensor": 2}),
  "128 A100": ("a100:128", {"data": -1, "fsdp": 8}),
  "128 H100": ("h100:128", {"data": -1, "fsdp": 8}),
}


def read(model: str, stage: str, mesh=None) -> Config:
  """A stage's config on a mesh."""
  made = runpy.run_path(str(ROOT / "configs" / "curriculum.py"))
  config = from_dict(Config, made["get_config"](f"{model}_{stage}"))
  if not mesh:
    return config
  return dataclasses.replace(
    config, mesh=dataclasses.replace(config.mesh, **mesh)
  )


def compile_cells(most: int, platform: str) -> None:
  """Compiles up to `most` cells of a platform that are not kept yet."""
  from pyramid_jax.cost import plan

  cells = [
    (model, stage, machine)
    for model in MODELS
    for stage in reversed(STAGES)
    for machine in MACHINES
    if chips.target(MACHINES[machine][0]).platform == platform
  ]
  for model, stage, machine in cells:
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    key = f"{model} {stage} {machine}"
    if key in kept or most < 1:
      continue
    most -= 1
    topology, mesh = MACHINES[machine]
    target = chips.target(topology)
    (found,) = plan.make(read(model, stage, mesh), target, quick=True)
    kept[key] = summary(found)
    KEPT.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    print(key, kept[key], flush=True)


def summary(found) -> dict:
  """What the document says of a plan."""
  compiled, run = found.compiled, found.run
  known = {} if run is None else dict(
    hours=24 * run.days,
    hours_serial=24 * run.days * run.estimate.serial / run.estimate.step,
    chip_hours=run.chip_hours,
    mfu=run.utilisation,
    binds=run.estimate.binds,
    step=run.estimate.step,
  )  # fmt: skip
  return dict(
    mesh={k: v for k, v in found.mesh.items() if v > 1},
    remat=found.config.model.remat,
    fits=compiled.fits,
    hbm=round(compiled.total / chips.GIB, 2),
    limit=compiled.limit / chips.GIB,
    kernels=compiled.kernels,
    compile_seconds=round(compiled.seconds),
    **known,
  )


def estimated(model: str, stage: str, machine: str) -> dict:
  """A cell by formula."""
  from pyramid_jax.cost import estimate, plan

  topology, mesh = MACHINES[machine]
  config, target = read(model, stage, mesh), chips.target(topology)
  run = plan.formula(config, target)
  axes = estimate.mesh_of(config, target)
  return dict(
    mesh={k: v for k, v in axes.items() if v > 1},
    remat=config.model.remat,
    hours=24 * run.days,
    hours_serial=24 * run.days * run.estimate.serial / run.estimate.step,
    chip_hours=run.chip_hours,
    mfu=run.utilisation,
    binds=run.estimate.binds,
    step=run.estimate.step,
  )


HEAD = ("stage", "machine", "mesh", "remat", "memory GiB", "step s", "binds",
        "hours", "chip-hours", "MFU")  # fmt: skip


def line(stage: str, machine: str, cell: dict, compiled: bool) -> tuple:
  """A cell in a row of the table."""
  mesh = ", ".join(f"{k} {v}" for k, v in cell["mesh"].items())
  if compiled:
    verdict = "fits" if cell["fits"] else "does not fit"
    memory = f"{cell['hbm']:.1f} of {cell['limit']:.0f}: {verdict}"
  else:
    memory = "not compiled"
  if "hours" not in cell:
    return stage, machine, mesh, cell["remat"], memory, *["-"] * 5
  star = "" if compiled else "*"
  return (
    stage, machine, mesh, cell["remat"], memory, f"{cell['step']:.2f}{star}",
    cell["binds"], f"{cell['hours']:.1f} to {cell['hours_serial']:.1f}",
    f"{cell['chip_hours']:,.0f}", f"{cell['mfu']:.0%}",
  )  # fmt: skip


def tables() -> str:
  """A table for each transformer, its total under it."""
  from pyramid_jax.cost import report

  kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
  out = []
  for model, title in MODELS.items():
    rows, total = [], dict.fromkeys(MACHINES, 0.0)
    for stage in STAGES:
      for machine in MACHINES:
        cell = kept.get(f"{model} {stage} {machine}")
        compiled = cell is not None
        cell = cell or estimated(model, stage, machine)
        rows.append(line(stage, machine, cell, compiled))
        total[machine] += cell.get("chip_hours", float("nan"))
    sums = ", ".join(f"{k}: {v:,.0f}" for k, v in total.items())
    out += [f"## {title}", "", report.table(HEAD, rows, markdown=True), "",
            f"Chip-hours of all stages: {sums}.", ""]  # fmt: skip
  return "\n".join(out)


COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
UNITS = (16, 24, 31, 48, 64, 80, 96)
SHAPES = {8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8",
          256: "4x8x8", 512: "8x8x8", 1024: "8x8x16"}  # fmt: skip


def by_chips(stage: str) -> list[tuple[float, float]]:
  """Chip-hours of a stage on 8 to 1024 v5p chips: overlapping, serial.

  Rows stay 128: more chips than that split the heads and the MLP.
  """
  from pyramid_jax.cost import plan

  out = []
  for count in COUNTS:
    mesh = {"tensor": max(count // 128, 1)}
    target = chips.target(f"v5p:{SHAPES[count]}")
    run = plan.formula(read("mmdit", stage, mesh), target)
    out.append(span(run, run.chip_hours))
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
  from pyramid_jax.cost import plan

  config, target = read("mmdit", "768p"), chips.target("v5p:4x4x4")
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
  for stage in STAGES:
    low, high = zip(*by_chips(stage), strict=True)
    (drawn,) = left.plot(COUNTS, low, marker="o", markersize=3, label=stage)
    left.fill_between(COUNTS, low, high, alpha=0.25, color=drawn.get_color())
  left.set(
    xscale="log", xlabel="v5p chips", ylabel="chip-hours",
    title="a stage of the curriculum", ylim=(0, None),
  )  # fmt: skip
  left.set_xticks(COUNTS, COUNTS, fontsize=7)
  left.minorticks_off()
  left.legend(fontsize=8)
  low, high = zip(*by_units(), strict=True)
  right.plot(UNITS, low, marker="o", markersize=3)
  right.fill_between(UNITS, low, high, alpha=0.25)
  right.set(
    xlabel="units of a clip (8 frames each)", ylabel="chip-seconds a sample",
    title="768p, 64 v5p chips", ylim=(0, None),
  )  # fmt: skip
  figure.tight_layout()
  figure.savefig(path, dpi=80)


TEXT = """# What the curriculum costs

Made by `python benchmarks/scale.py`; nothing here was run on an accelerator.

Two kinds of rows. Where memory is given, the real training step was compiled
for that machine (`pyramid-plan --quick`) and operations, HBM traffic and
exchanges are those of the compiled program. A star marks a time by formula
alone: dense operations on padded rows with recomputation, attention kernels on
the tiles they visit, exchanges of parameters, gradients and activations; no
HBM traffic, and no answer whether it fits. Rows that are compiled: {{kept}} of
{{all}}.

Hours reach from all overlapping to nothing overlapping, with efficiencies that
are assumed, not measured, as shares of the published peaks:
{{efficiency}}.
Data: assumed clips at the sizes and durations of the configs, prompts of 62 +-
30 tokens. A compiled row's kernels are those of `config.model.attention=auto`.
v5p-128 is counted in cores, as Google does: 64 chips. The published run is
reported with 12, 90 and 60 hours on 128 A100 for images, 384p and 768p, 20.7k
A100-hours; the estimates below are for this code's packed rows, do not include
loading data, saving or restarts, and a real run will not reach them all the
time.

{{tables}}
## How cost grows

By formula, for the MM-DiT on v5p; the band reaches from all overlapping to
nothing overlapping, and whether few chips hold so many rows at once is not
asked. Left: 128 rows a step on 8 to 1024 chips; above 128 chips
heads and MLP are split (tensor axis). Right: 768p clips of 16 to 96 units; a
row of 96 units holds the {{longest}} latent tokens of its longest segment, of
the 32,768 of text and latents that a row may hold on TPUs.

![Chip-hours by chips, chip-seconds by units](scale.png)
"""


def write() -> None:
  """The document and its picture."""
  from pyramid_jax.cost import estimate

  kept = len(json.loads(KEPT.read_text())) if KEPT.exists() else 0
  values = {
    "kept": kept,
    "all": len(MACHINES) * len(MODELS) * len(STAGES),
    "efficiency": estimate.Efficiency(),
    "tables": tables(),
    "longest": f"{longest(UNITS[-1]):,}",
  }
  text = TEXT
  for name, value in values.items():
    text = text.replace("{{" + name + "}}", str(value))
  (ROOT / "docs" / "scale.md").write_text(text)
  picture(ROOT / "docs" / "scale.png")


def main():
  """Compiles what is asked, then writes the document."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--compile", type=int, default=0, help="cells at most")
  parser.add_argument("--platform", default="tpu", choices=["tpu", "cuda"])
  asked = parser.parse_args()
  prepare(chips.target("v5p:4x4x4"))
  if asked.compile:
    compile_cells(asked.compile, asked.platform)
  write()


if __name__ == "__main__":
  main()
