"""What rate, guidance, steps and average of weights do: a table.

  python benchmarks/shapes_study.py --config=configs/shapes_cpu.py \\
    --workdir=runs/shapes_cpu/dit --out=runs/study
  python benchmarks/shapes_study.py ... --most=2    # two variants more

Every variant differs in one setting from the first, which is the run in
--workdir as its config generates. A learning rate is trained anew by
pyramid-train; all are measured by pyramid-evaluate on the same captions and
seeds. A variant that is done is kept in OUT, one that was stopped continues, so
that the same command goes on; OUT/study.md is the table so far.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
RATES = (5e-4, 1e-3, 4e-3)
GUIDANCE = (0.0, 2.0, 7.0, 10.0)
STEPS = (2, 4, 16)
COLUMNS = ("all correct", "shape", "color", "size", "direction", "speed")


def variants(stages: int, tiny: bool) -> dict[str, dict[str, list[str]]]:
  """Name -> flags of pyramid-train and of pyramid-evaluate."""
  pick = (lambda values: values[:1]) if tiny else (lambda values: values)
  found = {
    "as configured": {},
    "last weights, no EMA": _sampled("weights=params"),
  }
  for rate in pick(RATES):
    flag = f"--config.optimizer.learning_rate={rate:g}"
    found[f"learning rate {rate:g}"] = {"train": [flag]}
  for scale in pick(GUIDANCE):
    found[f"guidance {scale:g}"] = _sampled(
      f"guidance={scale:g}", f"video_guidance={scale:g}"
    )
  for n in pick(STEPS):
    steps = ",".join([str(n)] * stages)
    found[f"{n} steps a stage"] = _sampled(
      f"steps={steps}", f"video_steps={steps}"
    )
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


def measure(args, name: str, flags: dict[str, list[str]]):
  """Trains a variant if it asks for it, and scores it into its folder."""
  folder = args.out / name.replace(" ", "_").replace(",", "")
  if (folder / "results.json").exists():
    return False
  workdir = args.workdir
  if "train" in flags:
    workdir = folder / "run"
    command("train", f"--config={args.config}", f"--workdir={workdir}",
            *flags["train"], *args.train)  # fmt: skip
  command(
    "evaluate", f"--workdir={workdir}", f"--out={folder}", f"--n={args.n}",
    f"--batch={args.batch}", *flags.get("evaluate", []), *args.evaluate,
  )  # fmt: skip
  return True


def table(out: pathlib.Path, names: list[str]) -> str:
  """All variants that are done, with 95% intervals."""
  lines = [f"| variant | {' | '.join(COLUMNS)} | flicker |",
           "|---" * (len(COLUMNS) + 2) + "|"]  # fmt: skip
  for name in names:
    path = out / name.replace(" ", "_").replace(",", "") / "results.json"
    if not path.exists():
      continue
    found = json.loads(path.read_text())["summary"]
    rates = {**found["attributes"], "all correct": found["all correct"]}
    cells = [_cell(rates.get(column)) for column in COLUMNS]
    lines.append(f"| {name} | {' | '.join(cells)} | {found['flicker']:.2f} |")
  return "\n".join(lines) + "\n"


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
  found, left = variants(args.stages, args.tiny), args.most
  for name, flags in found.items():
    if left and measure(args, name, flags):
      left -= 1
      args.out.mkdir(parents=True, exist_ok=True)
      (args.out / "study.md").write_text(table(args.out, list(found)))
  print(table(args.out, list(found)), end="")


if __name__ == "__main__":
  main()
