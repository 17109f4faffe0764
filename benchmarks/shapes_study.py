"""What rate, guidance, steps and average of weights do: a table.

  python benchmarks/shapes_study.py --config=configs/shapes_cpu.py \\
    --workdir=runs/shapes_cpu/dit --out=runs/study
  python benchmarks/shapes_study.py ... --most=2    # two variants more

Every variant differs in one setting from the first, which is the run in
--workdir as its config generates. A learning rate is trained anew by
pyramid-train; all are measured by pyramid-evaluate on the same captions and
seeds. Earlier checkpoints that the run has kept are measured, too, for the
curve over training time, OUT/study.png: minutes from the first step, compiling
included, as the run's metrics tell them. A variant that is done is kept in OUT,
one that was stopped continues, so that the same command goes on; OUT/study.md
is the table so far.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from pyramid_jax.evals import shapes_report

ROOT = pathlib.Path(__file__).parents[1]
RATES = (2.5e-3, 5e-3, 2e-2)
GUIDANCE = (0.0, 1.5, 2.0, 5.0, 7.0)
STEPS = (2, 4, 16)
BASE = "as configured"
TIME_TO_FIRST = "first_step_seconds"
COLUMNS = ("all correct", "shape", "color", "size", "direction", "speed")


def variants(
  stages: int, tiny: bool, kept: Sequence[int]
) -> dict[str, dict[str, list[str]]]:
  """Name -> flags of pyramid-train and of pyramid-evaluate, or a step.

  Args:
    kept: steps of the checkpoints that are there, the last one among them.
  """
  pick = (lambda values: values[:1]) if tiny else (lambda values: values)
  found = {
    BASE: {},
    **{after(step): {"step": step} for step in kept[:-1]},
    "last weights, no EMA": _sampled("weights=params"),
  }
  for scale in pick(GUIDANCE):
    found[f"guidance {scale:g}"] = _sampled(
      f"guidance={scale:g}", f"video_guidance={scale:g}"
    )
  for n in pick(STEPS):
    steps = ",".join([str(n)] * stages)
    found[f"{n} steps a stage"] = _sampled(
      f"steps={steps}", f"video_steps={steps}"
    )
  for rate in pick(RATES):  # last: each is a training
    flag = f"--config.optimizer.learning_rate={rate:g}"
    found[f"learning rate {rate:g}"] = {"train": [flag]}
  return found


def after(step: int) -> str:
  """Name of the variant that is the run at an earlier step."""
  return f"after {step} steps"


def kept_steps(workdir: pathlib.Path) -> list[int]:
  """Of the checkpoints in a workdir."""
  folders = (workdir / "checkpoints").glob("[0-9]*")
  return sorted(int(f.name) for f in folders if f.name.isdigit())


def minutes(workdir: pathlib.Path) -> dict[int, float]:
  """Of training until each step that the workdir's metrics name."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  found, seconds, before = {}, 0.0, 0
  for line in map(json.loads, lines):
    speed, first = (line.get(k) for k in ("steps_per_second", TIME_TO_FIRST))
    if speed is None and first is None:  # of no stretch of steps
      continue
    timed = line["step"] - before
    if first is not None:  # of the start, compiling and one step
      seconds, timed = seconds + first, timed - 1
    if timed:
      seconds += timed / speed
    before = line["step"]
    found[before] = seconds / 60
  return found


def _sampled(*flags: str) -> dict[str, list[str]]:
  return {"evaluate": [f"--{flag}" for flag in flags]}


def command(name: str, *flags: str):
  """Runs one of the project's commands to its end.

  Raises:
    SystemExit: it failed; it has said why.
  """
  module = f"pyramid_jax.cli.{name}"
  code = subprocess.run([sys.executable, "-m", module, *flags]).returncode
  if code:
    raise SystemExit(code)


def measure(args, name: str, flags: dict[str, list[str]], last: int) -> bool:
  """Trains a variant if it asks for it, and scores it into its folder.

  Args:
    last: step of the newest checkpoint.

  Returns:
    False if it was done before.

  Raises:
    SystemExit: it was done with something else.
  """
  folder = _folder(args.out, name)
  wanted = {
    "workdir": str(args.workdir.absolute()),
    "step": last,
    "clips": args.n,
    **flags,
    "more": [*args.train, *args.evaluate],
  }
  made = folder / "variant.json"
  if (folder / "results.json").exists() and made.exists():
    found = json.loads(made.read_text())
    if found == wanted:
      return False
    other = [
      f"{key} {found.get(key)}, now {wanted.get(key)}"
      for key in sorted(found.keys() | wanted.keys())
      if found.get(key) != wanted.get(key)
    ]
    raise SystemExit(
      f"{folder} was done otherwise ({'; '.join(other)}); choose another --out."
    )
  shapes_report.write_text(made, json.dumps(wanted))
  workdir = args.workdir
  if "train" in flags:
    workdir = folder / "run"
    command("train", f"--config={args.config}", f"--workdir={workdir}",
            *flags["train"], *args.train)  # fmt: skip
  if "step" in flags:  # a workdir whose last checkpoint this one is
    workdir, step = folder / "run", str(flags["step"])
    link = workdir / "checkpoints" / step
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
      link.symlink_to((args.workdir / "checkpoints" / step).absolute())
  command(
    "evaluate", f"--workdir={workdir}", f"--out={folder}", f"--n={args.n}",
    f"--batch={args.batch}", *flags.get("evaluate", []), *args.evaluate,
  )  # fmt: skip
  return True


def table(
  out: pathlib.Path, names: dict[str, int | None], time: dict[int, float]
) -> str:
  """All variants that are done, with 95% intervals.

  Args:
    names: with the step of the weights where that is all that differs.
    time: minutes of training by steps.
  """
  lines = [f"| variant | minutes | {' | '.join(COLUMNS)} | flicker |",
           "|---" * (len(COLUMNS) + 3) + "|"]  # fmt: skip
  for name, step in names.items():
    found = rates(out, name)
    if not found:
      continue
    cells = [f"{time[step]:.1f}" if step in time else ""]
    cells += [_cell(found.get(column)) for column in COLUMNS]
    lines.append(
      f"| {name} | {' | '.join(cells)} | {found['flicker']['mean']:.2f} |"
    )
  return "\n".join(lines) + "\n"


def rates(out: pathlib.Path, name: str) -> dict[str, dict]:
  """What a variant's clips show, by column, and flicker; empty if not done."""
  path = _folder(out, name) / "results.json"
  if not path.exists():
    return {}
  found = json.loads(path.read_text())["summary"]
  return {
    **found["attributes"],
    "all correct": found["all correct"],
    "flicker": {"mean": found["flicker"]},
  }


def curve(out: pathlib.Path, kept: list[int], time: dict[int, float]) -> None:
  """Draws accuracy over the time of training of the steps that are measured."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  names = {**{step: after(step) for step in kept[:-1]}, kept[-1]: BASE}
  found = {s: rates(out, name) for s, name in names.items()}
  steps = [s for s in found if found[s] and s in time]
  figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
  for column in COLUMNS:
    shown = [s for s in steps if column in found[s]]
    at = [found[s][column] for s in shown]
    shares = [100 * rate["hits"] / rate["n"] for rate in at]
    thick = 3 if column == COLUMNS[0] else 1
    at_minute = [time[s] for s in shown]
    axes.plot(at_minute, shares, marker="o", label=column, linewidth=thick)
    if column == COLUMNS[0]:
      low, high = ([100 * rate[k] for rate in at] for k in ("low", "high"))
      axes.fill_between(at_minute, low, high, alpha=0.2)
  axes.set(xlabel="minutes of training", ylim=(0, 101))
  axes.set(ylabel="clips that show it, %")
  axes.legend(fontsize=8)
  beside = out / ".study.png"
  figure.savefig(beside, dpi=150)
  beside.replace(out / "study.png")
  pyplot.close(figure)


def _folder(out: pathlib.Path, name: str) -> pathlib.Path:
  return out / name.replace(" ", "_").replace(",", "")


def _cell(rate: dict | None) -> str:
  if not rate:
    return ""
  share = rate["hits"] / rate["n"]
  return f"{share:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", required=True, help="of the run")
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--n", type=int, default=200, help="clips a variant")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--most", type=int, default=1000, help="variants now")
  parser.add_argument("--stages", type=int, default=3, help="of the pyramid")
  parser.add_argument("--tiny", action="store_true", help="one value of each")
  parser.add_argument(
    "--train", action="append", default=[], help="more flags of pyramid-train"
  )
  parser.add_argument(
    "--evaluate", action="append", default=[], help="and pyramid-evaluate"
  )
  args = parser.parse_args()
  kept = kept_steps(args.workdir)
  if not kept:
    parser.error(f"{args.workdir} has no checkpoints; train first.")
  found, left = variants(args.stages, args.tiny, kept), args.most
  steps = {name: flags.get("step") for name, flags in found.items()}
  steps[BASE], time = kept[-1], minutes(args.workdir)
  for name, flags in found.items():
    if left and measure(args, name, flags, kept[-1]):
      left -= 1
      args.out.mkdir(parents=True, exist_ok=True)
      shapes_report.write_text(
        args.out / "study.md", table(args.out, steps, time)
      )
      curve(args.out, kept, time)
  print(table(args.out, steps, time), end="")


if __name__ == "__main__":
  main()
