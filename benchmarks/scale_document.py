"""Writes docs/scale.md and docs/scale.png from what scale.py has compiled.

python benchmarks/scale_document.py
"""

import dataclasses
import pathlib

import scale
import scale_published

from pyramid_jax.cost import chips, estimate, plan, report

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
  out = []
  for model, title in scale.MODELS.items():
    rows, total = [], dict.fromkeys(scale.MACHINES, 0.0)
    for stage in scale.STAGES:
      for machine in scale.MACHINES:
        entry, compiled = cell_entry(model, stage, machine)
        rows.append(line(stage, machine, entry, compiled))
        total[machine] += entry.get("chip_hours", float("nan"))
    sums = ", ".join(f"{k}: {v:,.0f}" for k, v in total.items())
    out += [f"## {title}", "", report.table(HEAD, rows, markdown=True), "",
            f"Chip-hours of all stages: {sums}.", ""]  # fmt: skip
  return "\n".join(out)


def beside_published() -> dict[str, str]:
  """How the published hours compare with those of the table."""
  entries = [cell_entry("mmdit", s, "128 A100")[0] for s in scale.STAGES]
  planned = sum(entry["chip_hours"] for entry in entries)
  mean = sum(entry["chip_hours"] * entry["mfu"] for entry in entries) / planned
  spent = scale_published.GPUS * sum(scale_published.HOURS.values())
  return {
    "factor": f"{spent / planned:.1f}",
    "mfu": f"{mean * planned / spent:.0%}",
    "planned": f"{mean:.0%}",
  }


def cell_entry(model: str, stage: str, machine: str) -> tuple[dict, bool]:
  """What is known of a cell, and whether it was compiled."""
  cell = scale.Cell(model, stage, machine)
  found = scale.kept().get(cell.key)
  return found or scale.estimated(cell), found is not None


CHOSEN = ("machine", "remat", "mesh", "memory GiB", "binds", "step s")


def choices() -> str:
  """What was compiled of the MM-DiT's 768p, the chosen in bold."""
  kept, rows = scale.kept(), []
  for machine in scale.MACHINES:
    chosen = scale.Cell("mmdit", "768p", machine).key
    for key in dict.fromkeys(c.key for c in scale.choices(machine)):
      if key not in kept:
        continue
      cells = choice(machine, kept[key])
      rows.append([f"**{x}**" for x in cells] if key == chosen else cells)
  return report.table(CHOSEN, rows, markdown=True)


def choice(machine: str, entry: dict) -> list[str]:
  """A line of the choices."""
  mesh = ", ".join(f"{k} {v}" for k, v in entry["mesh"].items())
  memory = f"{entry['hbm']:.1f} of {entry['limit']:.0f}"
  cells = [machine, entry["remat"], mesh, memory]
  if "step" not in entry:
    return [*cells, "does not fit", "-"]
  serial = entry["step"] * entry["hours_serial"] / entry["hours"]
  return [*cells, entry["binds"], f"{entry['step']:.2f} to {serial:.2f}"]


COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
UNITS = (16, 24, 31, 48, 64, 80, 96)
SHAPES = {8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8",
          256: "4x8x8", 512: "8x8x8", 1024: "8x8x16"}  # fmt: skip


def by_chips(stage: str) -> list[tuple[float, float]]:
  """Chip-hours of a stage on 8 to 1024 v5p chips: overlapping, serial.

  Rows stay 128: more chips than that split the heads and the MLP.
  """
  out = []
  for count in COUNTS:
    mesh = {"tensor": max(count // 128, 1)}
    target = chips.target(f"v5p:{SHAPES[count]}")
    cell = scale.Cell("mmdit", stage, "v5p-128", mesh)
    run = plan.formula(cell.config, target)
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
  for stage in scale.STAGES:
    low, high = zip(*by_chips(stage), strict=True)
    (drawn,) = left.plot(COUNTS, low, marker="o", markersize=3, label=stage)
    left.fill_between(COUNTS, low, high, alpha=0.25, color=drawn.get_color())
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


ROOT = pathlib.Path(__file__).parents[1]
TEXT = """# What the curriculum costs

Made by `python benchmarks/scale_document.py` from what `benchmarks/scale.py`
compiled; nothing here was run on an accelerator.

{{how}}

Hours reach from all overlapping to nothing overlapping, with efficiencies that
are assumed, not measured, as shares of the published peaks:
{{efficiency}}.
Data: assumed clips at the sizes and durations of the configs, prompts of 62 +-
30 tokens. Kernels are those of `config.model.attention=auto`. Of a GPU's memory
{{share}} counts, which JAX takes where `launch/slurm.sh` starts it.
v5p-128 is counted in cores, as Google does: 64 chips. The estimates are for
this code's packed rows, do not include loading data, saving or restarts, and a
real run will not reach them all the time.

{{tables}}
## How mesh and remat were chosen

By what costs most, the MM-DiT at 768p; in bold what the config has: the least
step time of those compiled that leave a third of the memory free, of equal ones
the one that needs least. A machine with one line has nothing to compare it with
yet and has what the others were given. Seconds are from all overlapping to
nothing overlapping.

{{choices}}

## Beside the published hours

The published run is reported with 12, 90 and 60 hours on 128 A100 for images,
384p and 768p. With this code's samples a step (the paper's, within 3%) and its
number of steps, the transformer needs the operations below; the MFU is what
they are of the GPUs' peak during those hours. The columns after it add, one
after the other, what the released training may have computed beside it, which
is not known: prompts padded to {{prompt}} tokens (dense layers), text encoders
on each sample's prompt, the VAE's encoder on all frames of each sample's clip.

{{published}}

So the published hours are {{factor}} times those of the tables above
because they stand for an MFU of {{mfu}}, where the tables, whose
efficiencies are assumed, have {{planned}} on the same GPUs. Neither padded
prompts nor text encoders account for that. A share above 100% means that it
was not so: latents of whole clips were not made during the training. What else
the hours were spent on (waiting for data, exchanges, an implementation without
kernels for this mask) cannot be told from here.

## How cost grows

By formula, for the MM-DiT on v5p; the band reaches from all overlapping to
nothing overlapping, and whether few chips hold so many rows at once is not
asked. Left: 128 rows a step on 8 to 1024 chips; above 128 chips
heads and MLP are split (tensor axis). Right: 768p clips of 16 to 96 units; a
row of 96 units holds the {{longest}} latent tokens of its longest segment, of
the 32,768 of text and latents that a row may hold on TPUs.

![Chip-hours by chips, chip-seconds by units](scale.png)
"""


COMPILED = """\
The real training step was compiled for each machine (`pyramid-plan --quick`);
operations, HBM traffic and exchanges are those of the compiled program."""
PARTLY = """\
Two kinds of rows. Where memory is given, the real training step was compiled
for that machine (`pyramid-plan --quick`) and operations, HBM traffic and
exchanges are those of the compiled program. A star marks a time by formula
alone: dense operations on padded rows with recomputation, attention kernels on
the tiles they visit, exchanges of parameters, gradients and activations; no
HBM traffic, and no answer whether it fits. Rows that are compiled: {kept} of
{all}."""


def how() -> str:
  """Where the tables' numbers come from."""
  cells, kept = list(scale.cells()), scale.kept()
  compiled = sum(cell.key in kept for cell in cells)
  if compiled == len(cells):
    return COMPILED
  return PARTLY.format(kept=compiled, all=len(cells))


def write() -> None:
  """The document and its picture."""
  values = {
    "how": how(),
    "efficiency": estimate.Efficiency(),
    "share": f"{chips.GPU_SHARE:.0%}",
    "tables": tables(),
    "choices": choices(),
    "prompt": scale_published.PROMPT,
    "published": scale_published.table(),
    **beside_published(),
    "longest": f"{longest(UNITS[-1]):,}",
  }
  text = TEXT
  for name, value in values.items():
    text = text.replace("{{" + name + "}}", str(value))
  (ROOT / "docs" / "scale.md").write_text(text)
  picture(ROOT / "docs" / "scale.png")


if __name__ == "__main__":
  scale.prepare(chips.target("v5p:4x4x4"))
  write()
