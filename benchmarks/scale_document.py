"""Writes docs/scale.md and docs/scale.png from what scale.py has compiled.

python benchmarks/scale_document.py
"""

import collections
import pathlib

import scale
import scale_growth as growth
import scale_published

from pyramid_jax.cost import chips, estimate, report

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
  found = scale.planned(cell)
  return found or scale.estimated(cell), found is not None


CHOSEN = ("machine", "remat", "mesh", "memory GiB", "binds", "step s")


def choices() -> str:
  """What was compiled of the MM-DiT's 768p, the chosen in bold."""
  rows = []
  for machine in scale.MACHINES:
    chosen = scale.Cell("mmdit", "768p", machine).key
    for key, cell in {c.key: c for c in scale.choices(machine)}.items():
      if entry := scale.planned(cell):
        cells = choice(machine, entry)
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


CHIPS = ("chip", "bfloat16 TFLOP/s", "HBM GB/s", "fast network GB/s",
         "which joins", "slow network GB/s", "source")  # fmt: skip


def peaks() -> str:
  """The figures that the estimates take for each chip of the tables."""
  found = [chips.target(topology).chip for topology, _ in
           scale.MACHINES.values()]  # fmt: skip
  return report.table(CHIPS, [of_chip(chip) for chip in found], markdown=True)


def of_chip(chip: chips.Chip) -> list[str]:
  """A row of the chips."""
  rates = (chip.bandwidth, chip.link, chip.slow)
  hbm, fast, slow = (f"{rate / 1e9:,.4g}" for rate in rates)
  source = f"[{chip.source.split('/')[2]}]({chip.source})"
  return [chip.name, f"{chip.peak / 1e12:,.0f}", hbm, fast,
          f"{chip.island:,} devices", slow, source]  # fmt: skip


def versions() -> str:
  """What compiled the cells that are kept."""
  found = collections.Counter(
    ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
    for entry in scale.kept().values()
  )
  known = [f"{count} with {name}" for name, count in found.items()]
  return f"{found.total()} compiled programs are kept: {', '.join(known)}."


ROOT = pathlib.Path(__file__).parents[1]
TEXT = """# What the curriculum costs

Made by `python benchmarks/scale_document.py` from what `benchmarks/scale.py`
compiled. Nothing here was run on an accelerator, and the estimate of time has
been checked against no real device yet.

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

{{versions}}

{{peaks}}

The slow network joins nodes of GPUs and slices of TPUs; its figure is a host's
network cards shared by its chips. Rented machines differ: `pyramid-plan
--slow_gbps=` takes another one.

Of a group that reaches several nodes, a GPU's slow network is assumed to carry
the m-th part of what the GPU sends, with m members of the group in each node:
a ring leaves a node once, whatever its members there, and m rings share the
cards. All of it counts on the fast network beside, if m is more than 1. Of
128 GPUs with `fsdp` 8, m is 1 for the sums over `data`, 8 where all exchange.

A TPU's fast network is the sum of its links to the neighbours in a torus. An
exchange has those of the dimensions that its group spans: of a whole closed
dimension two, of a part of one, a group of two neighbours one.

{{tables}}
## How mesh and remat were chosen

By what costs most, the MM-DiT at 768p; in bold what the config has: of those
compiled that leave a third of the memory free and whose step is within a tenth
of the least, the one that takes least if nothing overlaps (of v6e-256, second
to one that is told of below). Seconds are from all overlapping to nothing
overlapping.

{{choices}}

On TPUs an axis should not be all of a slice's devices: between all of 64 and
more, the compiler writes each gathering and scattering of parameters as a sum
of arrays that are zero elsewhere, which sends twice the bytes. So v5p-128 has
`data` 2. Between some of them it gathers. Gradients it scatters, a fifth apart,
on v5p-128, where a device has 48 or 60 rows of a kernel; it sums most of them
where it has 12 or 15 (fsdp 128, on v6e-256 and on 1,024 v5p), and on v6e-256
with `data` 4 and fsdp 32, where it has 48. Tiles of 8 rows in float32 and of 16
in bfloat16 seem to have to do with it; the rule is not known. Of a layer's
three kernels, compiled apart for v6e-256 with fsdp 128, it scatters all at 16
rows, none at 12, at 8 the one in float32, at 20 the two in bfloat16; for
v5p-128 with fsdp 32, at 8, 12 and 20 the one in float32.

Of v6e-256, `data` 4 with fsdp 32 was compiled last and takes a little less time
and more memory than what the config has; the other stages were not compiled so.

Parameters are exchanged as they are used: those of the modulation, a third, in
float32, the others in bfloat16, in which their gradients are summed, too.

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
nothing overlapping. Left: 128 rows a step on 8 to 1024 chips; above 128 chips
heads and MLP are split (tensor axis), on fewer than 64 rows are taken in
microbatches of two a device. The bars are compiled programs (on 64 chips; 768p
on {{largest}}, too), which fit; whether the others fit was not compiled. Right:
768p clips of 16 to 96 units; a row of 96 units holds the {{units}} latent
tokens of its longest segment, of the 32,768 of text and latents that a row may
hold on TPUs; whether such rows fit is not asked.

![Chip-hours by chips, chip-seconds by units](scale.png)

The formula counts dense operations on padded rows with recomputation, attention
kernels on the tiles they visit, exchanges of parameters, gradients (summed at
fewer than 16 rows a device, else scattered) and activations, and HBM traffic,
whose few constants were fitted to the compiled MM-DiT cells of the tables
above; the other rows below were left out of the fit, and remat `none` of all,
which moves half as much again. It is this share of the seconds that the
compiled programs have:

{{beside}}

So the curve is below what a compiled plan says, the more the more chips: on
{{largest}} chips {{curve}} chip-hours by formula, {{plan}} compiled.
Plan a run with `pyramid-plan`, which compiles it.
"""


COMPILED = """\
The real training step was compiled for each machine (`pyramid-plan --quick`);
operations, HBM traffic and exchanges are those of the compiled program."""
PARTLY = """\
Two kinds of rows. Where memory is given, the real training step was compiled
for that machine (`pyramid-plan --quick`) and operations, HBM traffic and
exchanges are those of the compiled program. A star marks a time by formula
alone: dense operations on padded rows with recomputation, attention kernels on
the tiles they visit, exchanges of parameters, gradients and activations, HBM
traffic as fitted to compiled cells, and no answer whether it fits. Rows that
are compiled: {kept} of {all}."""


def how() -> str:
  """Where the tables' numbers come from."""
  cells = list(scale.cells())
  compiled = sum(bool(scale.known(cell)) for cell in cells)
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
    "units": f"{growth.longest(growth.UNITS[-1]):,}",
    "versions": versions(),
    "peaks": peaks(),
    "beside": growth.beside_compiled(),
    **growth.of_largest(),
  }
  text = TEXT
  for name, value in values.items():
    text = text.replace("{{" + name + "}}", str(value))
  (ROOT / "docs" / "scale.md").write_text(text)
  growth.picture(ROOT / "docs" / "scale.png")


if __name__ == "__main__":
  scale.prepare(chips.target("v5p:4x4x4"))
  write()
