"""pyramid-score: benchmark scores, and the distance of generated to real.

  pyramid-score clips FOLDER          are the clips of a benchmark all there?
  pyramid-score vbench RESULTS        VBench's raw values to its three scores
  pyramid-score evalcrafter RESULTS   EvalCrafter's metrics to its four scores
  pyramid-score flicker FOLDER        temporal flickering of static clips
  pyramid-score frechet REAL FAKE --weights=pt_inception-2015-12-05-6726825d.pth
  pyramid-score frechet REAL FAKE --vae=runs/vae

Exit code 1 if clips are missing or wrong, or scores are partial.
"""

import dataclasses
import inspect
import json
import pathlib

from absl import flags

from pyramid_jax.cli import app, processes
from pyramid_jax.config import ConfigError

F = flags.FLAGS
for flag in processes.NAMES:
  flags.declare_key_flag(flag)
flags.DEFINE_string(
  "weights", None, "Inception's weights, for FID; REAL and FAKE hold images."
)
flags.DEFINE_string(
  "vae", None, "Workdir of a VAE, whose latents are compared."
)
flags.DEFINE_integer("batch", 8, "Files encoded together.", lower_bound=1)
flags.DEFINE_string("out", None, "Also write the values here (.json).")


def clips(folder: str) -> tuple[dict, int]:
  """Lists what keeps a benchmark from being run on its clips."""
  from pyramid_jax.evals.results import check_clips

  found = check_clips(folder)
  print(found)
  return dataclasses.asdict(found), int(not found.complete)


def vbench(results: str) -> tuple[dict, int]:
  """Aggregates; names what measures the dimensions that are missing."""
  from pyramid_jax.evals import vbench as bench
  from pyramid_jax.evals.results import read_vbench

  raw = read_vbench(results)
  found = bench.scores(raw)
  print(f"{bench.table(raw)}\n{found}")
  return dataclasses.asdict(found), int(bool(found.missing))


def evalcrafter(results: str) -> tuple[dict, int]:
  """Aggregates the seventeen metrics."""
  from pyramid_jax.evals import evalcrafter as bench
  from pyramid_jax.evals.results import read_evalcrafter

  found = bench.scores(read_evalcrafter(results))
  for name, value in found.items():
    print(f"{name:<12}{value:.2f}")
  return found, 0


def flicker(folder: str) -> tuple[dict, int]:
  """VBench's temporal flickering; `--out` is like its result files."""
  from pyramid_jax.evals.results import measure_flickering

  found = measure_flickering(folder)
  ((name, (mean, each)),) = found.items()
  print(f"{name} of {len(each)} clips: {100 * mean:.2f}")
  print("It counts for clips that stand still: VBench's static_filter.py, with")
  print("RAFT (raft-things.pth), chooses them among 25 of each prompt.")
  return found, 0


def frechet(real: str, fake: str) -> tuple[dict, int]:
  """Inception's features of images, or a VAE's latents of clips."""
  if bool(F.weights) == bool(F.vae):
    raise ConfigError(
      "give --weights (FID of images) or --vae (latents of clips), one of them."
    )
  processes.start(preemption=False)
  from pyramid_jax.evals import distance

  if F.weights:
    found = distance.of_images(real, fake, F.weights, F.batch)
  else:
    found = distance.of_clips(real, fake, F.vae, F.batch)
  if processes.is_first():
    print(found)
  return dataclasses.asdict(found), 0


MODES = {m.__name__: m for m in (clips, vbench, evalcrafter, flicker, frechet)}


def main(arguments: list[str]) -> int:
  """Runs what the first argument names."""
  mode, *paths = arguments or [""]
  if mode not in MODES:
    raise ConfigError(
      f"{mode!r} is not to be scored; there are {', '.join(MODES)}."
    )
  wanted = inspect.signature(MODES[mode]).parameters
  if len(paths) != len(wanted):
    raise ConfigError(
      f"pyramid-score {mode} takes {' '.join(w.upper() for w in wanted)}; "
      f"{len(paths)} were given."
    )
  values, code = MODES[mode](*paths)
  if F.out and processes.is_first():
    write_json(pathlib.Path(F.out), values)
  return code


def write_json(path: pathlib.Path, values: dict):
  """Writes beside, then renames."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.partial")
  beside.write_text(json.dumps(values, indent=1) + "\n")
  beside.replace(path)


def run():
  """Entry point."""
  app.run(main, arguments=True)


if __name__ == "__main__":
  run()
