"""pyramid-convert: released PyTorch weights to ours, and ours to PyTorch.

  pyramid-convert --snapshot=DIR --model=all --out=OURS
  pyramid-generate --workdir=OURS/diffusion_transformer_384p --prompt="..."

  pyramid-convert --to_torch --workdir=RUN_OR_OURS --out=DIR
  pyramid-convert --sd3=stable-diffusion-3-medium --out=START

Tensors pass one at a time, so the memory needed is that of the largest.
"""

import pathlib
import resource
import time

from absl import flags
from tqdm import tqdm

from pyramid_jax.cli import app
from pyramid_jax.config import ConfigError

F = flags.FLAGS
flags.DEFINE_string(
  "snapshot", None, "Folder in the layout of a Hugging Face snapshot."
)
flags.DEFINE_enum(
  "model",
  "all",
  ["mmdit", "miniflux", "vae", "t5", "clip_l", "clip_g", "all"],
  "Which of its models.",
)
flags.DEFINE_string("out", None, "Folder to write; a folder for each model.")
flags.DEFINE_enum(
  "dtype",
  "bfloat16",
  ["float32", "bfloat16"],
  "What transformer and VAE compute in; weights keep their own.",
)
flags.DEFINE_bool("to_torch", False, "The other way: --workdir to --out.")
flags.DEFINE_string(
  "workdir", None, "Training run or converted folder, for --to_torch."
)
flags.DEFINE_string("name", "", "Folder name in --out, for --to_torch.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Of a training run.")
flags.DEFINE_string(
  "sd3", None, "SD3-medium folder (diffusers) to start an MM-DiT from."
)


def main():
  """Checks the flags and converts component by component."""
  app.require("out", "workdir" if F.to_torch else "out")
  if bool(F.snapshot) + bool(F.sd3) + F.to_torch != 1:
    raise ConfigError("give one of --snapshot, --to_torch and --sd3.")
  # here, so that mistakes in flags are told before JAX is imported
  from pyramid_jax.convert import released, sd3

  start = time.monotonic()
  if F.to_torch:
    done = [
      released.export(part, F.out, F.name, F.weights)
      for part in tqdm(released.ours(F.workdir), unit="model", disable=None)
    ]
  elif F.sd3:
    done = [pathlib.Path(F.out)]
    print(sd3.convert(F.sd3, F.out, F.dtype))
  else:
    parts = released.components(F.snapshot, F.model)
    for part in tqdm(parts, unit="model", disable=None):
      released.convert(part, F.out, F.dtype)
    done = [pathlib.Path(F.out) / part.name for part in parts]
  seconds = time.monotonic() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  for folder in done:
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    print(f"{folder}: {size / 2**30:.2f} GiB")
  print(f"{seconds:.1f} s, peak memory {peak:.2f} GiB")


def run():
  """Entry point."""
  app.run(main)


if __name__ == "__main__":
  run()
