"""Plots of what was measured, and a sheet of clips to look at."""

import pathlib
from collections.abc import Mapping, Sequence

DISTANCES = {
  "number of stages": ("1 stage", "2 stages", "pyramid", "4 stages"),
  "covariance": ("gamma 0", "gamma 1/9", "gamma 2/9", "pyramid"),
  "training": ("pyramid", "independent noise", "stages 1:2:1"),
}
IMAGES = ("pyramid, images", "1 stage, images")
ON_IMAGES = ("1 stage, images", "2 stages, images", "pyramid, images",
             "4 stages, images", "gamma 0, images", "gamma 1/9, images",
             "gamma 2/9, images", "stages 1:2:1, images")  # fmt: skip
LATER_FRAMES = ("autoregressive", "full sequence", "bidirectional",
                "clean history")  # fmt: skip
CLIPS = 6  # of the sheet


def plots(
  found: Mapping[str, Sequence[Mapping]], measures: Mapping, path: pathlib.Path
) -> None:
  """Means over seeds; bars and bands reach from the least to the most."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(4, 3, figsize=(13, 13))
  spots = iter(axes.flat)
  of = measures["Frechet distance"].of
  title = "Frechet distance"
  over_compute(next(spots), found, "frechet", title, ("pyramid", "1 stage"))
  for name, label in (("frechet", title), ("all correct", "all correct")):
    over_compute(next(spots), found, name, f"images: {label}", IMAGES)
  for title, variants in DISTANCES.items():
    dots(next(spots), found, of, f"Frechet distance: {title}", variants)
  of, title = measures["all correct"].of, "images: all correct"
  dots(next(spots), found, of, title, ON_IMAGES)
  title = "after images: all correct"
  over_compute(next(spots), found, "all correct", title, LATER_FRAMES[:2])
  dots(next(spots), found, of, title, LATER_FRAMES)
  neighbours(next(spots), found)
  windows(next(spots), found)
  errors(next(spots), found)
  for spot in spots:
    spot.axis("off")
  figure.tight_layout()
  beside = path.with_name(f".{path.stem}.partial.png")
  figure.savefig(beside, dpi=80)
  plt.close(figure)
  beside.replace(path)


def band(axes, x: Sequence, lines: Sequence[Sequence[float]], label: str):
  """The mean of several seeds' lines, and all that they cover."""
  columns = list(zip(*lines, strict=True))
  (drawn,) = axes.plot(
    x, [sum(c) / len(c) for c in columns], marker="o", ms=4, label=label
  )
  axes.fill_between(
    x, [*map(min, columns)], [*map(max, columns)],
    color=drawn.get_color(), alpha=0.2, linewidth=0,
  )  # fmt: skip


def legend(axes) -> None:
  """Of what is there."""
  if axes.lines:
    axes.legend(fontsize=8)


def steps_of(record: Mapping) -> list[Mapping]:
  """What was measured at each step."""
  return list(record["over compute"].values())


def over_compute(axes, found, name: str, title: str, variants) -> None:
  """A score over training FLOPs."""
  for variant in variants:
    if records := found.get(variant):
      steps = records[0]["over compute"]
      flops = [[v["work"]["flops"] for v in steps_of(r)] for r in records]
      a_step = [sum(x) / len(x) for x in zip(*flops, strict=True)]
      x = [int(s) * f / 1e12 for s, f in zip(steps, a_step, strict=True)]
      lines = [[v[name] for v in steps_of(r)] for r in records]
      band(axes, x, lines, variant)
  axes.set(title=title, xlabel="training TFLOP, mean of seeds")
  legend(axes)


def dots(axes, found, of, title: str, variants: Sequence[str]) -> None:
  """A mark for every seed of every variant."""
  there = [v for v in variants if found.get(v)]
  for place, variant in enumerate(there):
    values = [of(record) for record in found[variant]]
    axes.plot([place] * len(values), values, "o", ms=5, alpha=0.7)
  axes.set_xticks(range(len(there)), there, rotation=25, ha="right", fontsize=8)
  axes.set(title=title, xlim=(-0.5, max(len(there), 1) - 0.5))


def neighbours(axes, found) -> None:
  """Correlation within blocks and across, beside that of true latents."""
  last = lambda record: list(record["over compute"].values())[-1]
  names = {"pyramid": "with noise", "no corrective noise": "without"}
  rows = {
    label: [last(r)["blocks"] for r in found.get(variant, [])]
    for variant, label in names.items()
  }
  every = [r for records in found.values() for r in records]
  rows["true latents"] = [last(every[0])["blocks of true clips"]]
  rows = {label: records for label, records in rows.items() if records}
  for shift, name in ((-0.15, "inside"), (0.15, "across")):
    values = [[b[name] for b in records] for records in rows.values()]
    mean = [sum(x) / len(x) for x in values]
    reach = [
      [m - min(x) for m, x in zip(mean, values, strict=True)],
      [max(x) - m for m, x in zip(mean, values, strict=True)],
    ]
    places = [i + shift for i in range(len(rows))]
    axes.bar(places, mean, 0.3, yerr=reach, label=name)
  axes.set_xticks(range(len(rows)), rows)
  axes.set(title="correlation of neighbours in 2 x 2 blocks", ylim=(0, 1.25))
  axes.legend(fontsize=8, loc="upper right", ncols=2)


def windows(axes, found) -> None:
  """How many long clips have the object that was asked for, by quarters."""
  for variant in LATER_FRAMES:
    records = [r for r in found.get(variant, []) if "long" in r]
    if records:
      lines = [[w["kept"] for w in r["long"]["windows"]] for r in records]
      band(axes, range(1, len(lines[0]) + 1), lines, variant)
  axes.set(title="objects as asked", xlabel="quarter of 65 frames", ylim=(0, 1))
  axes.set_xticks([1, 2, 3, 4])
  legend(axes)


def errors(axes, found) -> None:
  """What few steps cost."""
  for variant in ("pyramid", "independent noise"):
    if records := found.get(variant):
      steps = [int(n) for n in records[0]["paths"]["errors"]]
      lines = [list(r["paths"]["errors"].values()) for r in records]
      band(axes, steps, lines, variant)
  axes.set(title="error against 64 steps", xlabel="steps a stage")
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_formatter("{x:g}")
  legend(axes)


def block_sheet(
  path: pathlib.Path, shapes: pathlib.Path, *clips: pathlib.Path
) -> None:
  """True clips, those with corrective noise and those without, side by side."""
  from pyramid_jax.evals.shapes_run import Dataset
  from pyramid_jax.generate import export

  files = [sorted(folder.glob("*.mp4"))[:CLIPS] for folder in clips]
  questions = Dataset(shapes).heldout(len(files[0]))
  made = [[export.read_mp4(file)[0] for file in part] for part in files]
  export.contact_sheet(
    path,
    [q.prompt for q in questions],
    [
      ("true", [q.truth for q in questions]),
      ("with corrective noise", made[0]),
      ("without", made[1]),
    ],
    shown=3,
    side=128,
  )
