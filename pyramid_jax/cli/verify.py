"""pyramid-verify: ours beside numbers recorded from the PyTorch code.

  pyramid-verify FILE.npz [FILE.npz ...] [--mid] [--table=errors.md]

A line for every array: error, error relative to the largest value, limit,
verdict. Exit code 1 if something failed or was not compared, 2 if a file could
not be read.
"""

import pathlib
import sys

from absl import flags

from pyramid_jax.cli import app, mesh_flag
from pyramid_jax.config import ConfigError, UserError

F = flags.FLAGS
flags.DEFINE_bool("mid", False, "Also intermediates, until the first parts.")
flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "What the models compute in."
)
mesh_flag.define("one device")
flags.declare_key_flag("mesh")
flags.DEFINE_enum(
  "attention", "auto", ["auto", "xla", "tpu", "gpu", "dense"], "Implementation."
)
flags.DEFINE_float(
  "tolerance", None, "One limit for all arrays, in place of each kind's own."
)
flags.DEFINE_bool("failures", False, "Only the lines that failed.")
flags.DEFINE_bool(
  "quick", None, "Compile fast, run slowly; by default for files up to 50 MB."
)
flags.DEFINE_string("table", None, "Write the worst error of each file here.")


def main(paths: list[str]) -> int:
  """Compares file by file; the worst of what happened is the exit code."""
  if not paths:
    raise ConfigError("there is no file; give reference files (.npz).")
  where = mesh_flag.get()
  # here, so that mistakes in flags are told before JAX is imported
  from pyramid_jax.verify.file import kind, read
  from pyramid_jax.verify.options import Options
  from pyramid_jax.verify.report import HEAD, Report
  from pyramid_jax.verify.run import verify

  def show(line):
    if not (F.failures and line.passed):
      print(line, flush=True)

  code, reports = 0, []
  for path in paths:
    print(f"{path}\n{HEAD}")
    try:
      file = read(path)
      if kind(file) == "weights":
        print("weights that files beside it name; nothing to compare\n")
        continue
      quick = F.quick
      if quick is None:
        quick = sum(x.nbytes for x in file.arrays.values()) < 50e6
      options = Options(F.dtype, where, F.attention, quick)
      report = Report(file, tolerance=F.tolerance, mid=F.mid, show=show)
      verify(file, report, options)
    except UserError as error:
      print(f"pyramid-verify: error: {error}", file=sys.stderr)
      code = 2
      continue
    print(report.summary(), "\n")
    reports.append(report)
    code = max(code, 0 if report.passed else 1)
  if len(paths) > 1:
    good = sum(report.passed for report in reports)
    print(f"{good} of {len(reports)} files passed")
  if F.table:
    write_table(pathlib.Path(F.table), reports)
  return code


def write_table(path: pathlib.Path, reports: list):
  """The worst error of every file, as a Markdown table."""
  lines = ["| file | arrays | worst | error |", "|---|---|---|---|"]
  for report in filter(lambda report: report.lines, reports):
    worst = report.worst
    unit = "abs" if worst.exact else "of max"
    lines.append(
      f"| {report.file.name} | {len(report.lines)} | `{worst.key}` | "
      f"{worst.relative:.1e} {unit} |"
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text("\n".join(lines) + "\n")
  beside.replace(path)


def run():
  """Entry point."""
  app.run(main, arguments=True)


if __name__ == "__main__":
  run()
