"""pyramid-score: benchmark scores, and the distance of generated to real.

  pyramid-score clips FOLDER          are the clips of a benchmark all there?
  pyramid-score vbench RESULTS        VBench's raw values to its three scores
  pyramid-score evalcrafter RESULTS   EvalCrafter's metrics to its four scores
  pyramid-score flicker FOLDER        temporal flickering of static clips
  pyramid-score frechet REAL FAKE --weights=pt_inception-2015-12-05-6726825d.pth
  pyramid-score frechet REAL FAKE --vae=runs/vae

Exit code 1 if clips are missing or wrong, if they are a part of the benchmark
(--part accepts that), or if scores are partial.
"""

import os

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
flags.DEFINE_bool("part", False, "A part of a benchmark's clips is enough.")
flags.DEFINE_string("out", None, "Also write the values here (.json).")
MODES = {
  "clips": ["FOLDER"], "vbench": ["RESULTS"], "evalcrafter": ["RESULTS"],
  "flicker": ["FOLDER"], "frechet": ["REAL", "FAKE"],
}  # fmt: skip


def frechet(real: str, fake: str):
  """Inception's features of images, or a VAE's latents of clips."""
  if bool(F.weights) == bool(F.vae):
    raise ConfigError(
      "give --weights (FID of images) or --vae (latents of clips), one of them."
    )
  processes.start(preemption=False)
  from pyramid_jax.evals import distance, scoring

  if F.weights:
    found = distance.of_images(real, fake, F.weights, F.batch)
  else:
    found = distance.of_clips(real, fake, F.vae, F.batch)
  return scoring.of_distance(found)


def _check_out(mode: str, paths: list[str]):
  """Refuses to write over what is read, or where it would be read next time."""
  from pyramid_jax.data import files
  from pyramid_jax.generate import benchmark

  if not F.out:
    return
  out = os.path.realpath(F.out)
  for path in paths:
    if os.path.abspath(F.out) == str(benchmark.manifest_path(path)):
      raise ConfigError(
        f"--out={F.out} is where pyramid-generate --benchmark says what it "
        f"makes in {path}; name another file."
      )
    read = {os.path.realpath(path)}
    if mode == "evalcrafter":  # of a folder it reads this alone
      read.add(os.path.realpath(os.path.join(path, "final_result.txt")))
    elif mode in ("vbench", "clips") or files.kind_of(out):
      read.add(os.path.join(os.path.realpath(path), os.path.basename(out)))
    if out in read:
      raise ConfigError(
        f"--out={F.out} would be among what is read of {path}; name a file in "
        "another folder."
      )


def main(arguments: list[str]) -> int:
  """Runs what the first argument names."""
  mode, *paths = arguments or [""]
  if mode not in MODES:
    raise ConfigError(
      f"{mode!r} is not to be scored; there are {', '.join(MODES)}."
    )
  if len(paths) != len(MODES[mode]):
    raise ConfigError(
      f"pyramid-score {mode} takes {' '.join(MODES[mode])}; {len(paths)} were "
      "given."
    )
  _check_out(mode, paths)
  if mode == "frechet":
    found = frechet(*paths)
  else:
    from pyramid_jax.evals import scoring

    found = scoring.KINDS[mode](*paths)
  if processes.is_first():
    print(found.text)
    if F.out:
      scoring.write_values(F.out, found.values)
  return 0 if found.whole or (F.part and found.part) else 1


def run():
  """Entry point."""
  app.run(main, arguments=True)


if __name__ == "__main__":
  run()
