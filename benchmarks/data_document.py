"""Writes docs/data.md and docs/data.png from what data.py measured."""

import pathlib
import textwrap
from collections.abc import Sequence

TEXT = """# From stored latents to rows: speed

Made by `python benchmarks/data.py` on {cores} CPU cores of a virtual machine;
seconds are CPU seconds of one process unless it says otherwise. No accelerator
took part: what a device needs is computed, at {mfu:.0%} of its peak.

![Rows a second: needed and delivered; fill](data.png)

## Planning and packing

Rows of the 2 B MM-DiT's curriculum on clips as `pyramid-plan` assumes them;
{bins} bins of grain's `BestFitPackIterDataset` get the same samples in random
order. Fill is that of latent and text tokens together.

{packing}

Every window has the same number of rows, so that row n is found without the
rows before it. grain's packer has no such row: its state is that of a process.

## A plan of {clips:,} clips

Lengths alone: three quarters videos of 2 to 5 s at 384p, one quarter images.

{simulate}

## Rows from stored latents

Random latents (float32) of the stage's sizes and lengths, read from a local
disk's cache, normalised, downsampled, patched and packed. Of a core: CPU
seconds of one thread. By threads and by loader processes: wall time, on all
cores.

{rows}

The default, threads (`config.latents.workers = 0`), starts at once and needs
the memory of one process. Each loader process holds the plan and its own rows.

## What devices need

Model FLOPs of a mean row by `pyramid_jax/cost`, at {mfu:.0%} of the peak. A
v5p-128 has 64 chips on 16 hosts. What {host} cores give is {host} times what
one core gave here, from data in memory: no disk or network is in it.

{need}

{verdict}
"""


def write(
  found: Sequence[dict], folder: pathlib.Path, mfu: float, cores: int, bins: int
):
  """Writes both files.

  Args:
    found: the lines that benchmarks/data.py prints.
    folder: where they go.
    mfu: share of the peak that devices are taken to reach.
    cores: of a host with one H100.
    bins: of grain's packer.
  """
  by = {(x["part"], x["stage"]): x for x in found}
  plans = [x for x in found if x["part"] == "packing"]
  loads = [x for x in found if x["part"] == "rows"]
  needs = {x["stage"]: x for x in found if x["part"] == "need"}
  (plan,) = [x for x in found if x["part"] == "simulate"]
  text = TEXT.format(
    cores="two", host=cores, mfu=mfu, bins=bins, clips=plan["clips"],
    packing=table(
      ("stage", "segments a row", "fill", "samples/s", "left out",
       "grain: fill", "grain: samples/s", "start"),
      [
        (
          x["stage"], f"{x['segments_a_row']:.1f}", f"{x['fill']:.1%}",
          f"{x['samples_per_second']:,.0f}", x["left_out"],
          f"{x['grain_fill']:.1%}", f"{x['grain_samples_per_second']:,.0f}",
          f"{x['start_seconds']:.1f} s",
        )
        for x in plans
      ],
    ),
    simulate=table(("", ""), simulated(plan)),
    rows=table(
      ("stage", "rows/s a core", "threads", "1 process", "2 processes",
       "records a row", "read a row", "a row", "peak memory"),
      [
        (
          x["stage"], f"{x['rows_per_second_a_core']:.1f}",
          *(f"{v:.1f}" for v in x["rows_per_second_by_workers"].values()),
          f"{x['records_a_row']:.1f}", f"{x['read_bytes_a_row'] / 1e6:.0f} MB",
          f"{x['row_bytes'] / 1e6:.1f} MB", f"{x['peak_bytes'] / 1e9:.2f} GB",
        )
        for x in loads
      ],
    ),
    need=table(
      ("stage", "one H100: rows/s", f"{cores} cores give", "of them busy",
       "v5p-128: rows/s a host", "records/s a host", "GB/s a host"),
      [needed(needs[x["stage"]], x, cores) for x in loads],
    ),
    verdict=verdict(loads, needs, cores),
  )  # fmt: skip
  (folder / "data.md").write_text(text)
  picture(by, folder / "data.png", cores)


def simulated(plan: dict) -> list[tuple[str, str]]:
  """What was measured of the plan of many clips."""
  before = plan["seconds_by_planning_all_before"] / 3600
  return [
    ("memory of the lengths", f"{plan['lengths_bytes'] / 1e6:.0f} MB"),
    ("memory of the plan", f"{plan['plan_bytes'] / 1e6:.0f} MB more"),
    ("start, to the first row", f"{plan['start_seconds']:.1f} s"),
    (f"seek to row {plan['row']:,}", f"{plan['seek_seconds']:.2f} s"),
    ("planning all rows before it", f"{before:.1f} hours (computed)"),
    ("a window", f"{plan['window_seconds']:.2f} s"),
    ("samples/s", f"{plan['samples_per_second']:,.0f}"),
    ("fill", f"{plan['fill']:.1%}"),
    ("left out", f"{plan['left_out']}"),
  ]


def needed(need: dict, load: dict, cores: int) -> tuple:
  """A stage's line: an H100 beside its cores, a pod's hosts."""
  core, host = (
    load["rows_per_second_a_core"],
    need["v5p_rows_per_second_a_host"],
  )
  return (
    need["stage"],
    f"{need['h100_rows_per_second']:.1f}",
    f"{cores * core:.1f}",
    f"{need['h100_rows_per_second'] / core:.1f}",
    f"{host:.1f}",
    f"{host * load['records_a_row']:.0f}",
    f"{host * load['read_bytes_a_row'] / 1e9:.2f}",
  )


def verdict(loads, needs, cores: int) -> str:
  """Whether input is fast enough, and what the measured host delivers."""
  short = [
    x["stage"] for x in loads
    if needs[x["stage"]]["h100_rows_per_second"]
    > cores * x["rows_per_second_a_core"]
  ]  # fmt: skip
  enough = (
    f"With {cores} cores input is too slow for one H100 at: {', '.join(short)}."
    if short
    else f"{cores} cores are enough for one H100 at every stage measured."
  )
  delivered = "; ".join(
    f"{max(x['rows_per_second_by_workers'].values()):.1f} rows/s, "
    f"{max(x['rows_per_second_by_workers'].values()) * x['records_a_row']:.0f} "
    "records/s and "
    f"{max(x['rows_per_second_by_workers'].values()) * x['read_bytes_a_row'] / 1e9:.2f} GB/s at {x['stage']}"  # noqa: E501
    for x in loads
  )
  return textwrap.fill(
    f"{enough} Both cores of this machine together delivered {delivered}.", 80
  )


def table(head: Sequence, lines: Sequence[Sequence]) -> str:
  """Markdown."""
  rows = [head, ["---"] * len(head), *lines]
  return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def picture(by: dict, path: pathlib.Path, cores: int):
  """Needed beside delivered rows; fill beside grain's."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
  stages = [stage for part, stage in by if part == "rows"]
  bars(
    left, stages,
    {
      "one H100 needs": [by["need", s]["h100_rows_per_second"] for s in stages],
      f"{cores} times one core here": [
        cores * by["rows", s]["rows_per_second_a_core"] for s in stages
      ],
    },
  )  # fmt: skip
  left.set(ylabel="rows a second", title="rows from stored latents")
  stages = [stage for part, stage in by if part == "packing"]
  bars(
    right, stages,
    {
      "this plan": [100 * by["packing", s]["fill"] for s in stages],
      "grain's best fit": [
        100 * by["packing", s]["grain_fill"] for s in stages
      ],
    },
  )  # fmt: skip
  right.axhline(97, color="black", linewidth=0.8, linestyle=":")
  right.set(ylim=(80, 100), ylabel="%", title="fill of latent and text tokens")
  figure.tight_layout()
  figure.savefig(path, dpi=80)


def bars(axes, names: Sequence[str], groups: dict[str, Sequence[float]]):
  """Bars side by side for each name."""
  width = 0.8 / len(groups)
  for i, (label, values) in enumerate(groups.items()):
    places = [n + i * width for n in range(len(names))]
    drawn = axes.bar(places, values, width, label=label)
    axes.bar_label(drawn, fmt="%.1f", fontsize=7)
  middle = 0.4 - width / 2
  axes.set_xticks([n + middle for n in range(len(names))], names)
  axes.legend(
    fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2
  )
  axes.margins(y=0.12)
