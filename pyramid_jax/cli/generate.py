"""pyramid-generate: prompts to videos, from a run or from converted weights.

  pyramid-generate --workdir=runs/dit --prompt="a red circle" --out=circle.mp4
  pyramid-generate --workdir=OURS/diffusion_transformer_768p --preset=768p \\
    --seconds=10 --image=cat.jpg --prompt="the cat yawns" --out=cat.mp4

  pyramid-generate --workdir=runs/dit --benchmark=vbench \\
    --prompts=VBench_full_info.json --out=vbench

Everything else is read from the checkpoint; flags change it. An mp4 is written
while its frames are generated, and carries its prompt, seed and settings. Run
again, --benchmark makes the clips that are missing; without it all are made.
"""

import pathlib

from absl import flags
from tqdm import tqdm

from pyramid_jax.cli import (
  app,
  benchmark,
  compilation,
  generate_flags,
  processes,
  sampler_flags,
)
from pyramid_jax.config import ConfigError
from pyramid_jax.generate import export

F = flags.FLAGS
flags.adopt_module_key_flags(generate_flags)
flags.adopt_module_key_flags(compilation)
flags.adopt_module_key_flags(processes)


def generate():
  """Reads the model, generates in batches, writes clips and the sheet."""
  if F.distributed or F.coordinator:
    raise ConfigError("several processes make only the clips of a --benchmark.")
  any_prompt = F.prompts or F.heldout
  app.require("workdir", "out", *[] if any_prompt else ["prompt"])
  prompts, truth = generate_flags.asked()
  repeat = lambda items: [x for x in items for _ in range(F.samples)]
  files = export.clip_paths(F.out, repeat(prompts))
  if F.sheet and not F.sheet.endswith(".png"):
    raise ConfigError(f"--sheet={F.sheet} must end in .png.")
  programs = compilation.use_cache()
  from pyramid_jax.generate.clips import (
    Request,
    generate_clips,
    model_calls,
  )
  from pyramid_jax.generate.given import names, read_all

  pipeline = sampler_flags.load(F.workdir)
  changed = sampler_flags.changes(pipeline.config.generate.fps)
  options = pipeline.options(**changed)
  pipeline.plan(options)  # refuses sizes and lengths before files are read
  per_unit = pipeline.config.flow.frames_per_unit
  begun = F.image, F.video, len(prompts)
  start = repeat(read_all(*begun, options, per_unit))
  told = zip(
    repeat(prompts), files, start, repeat(truth), repeat(names(*begun)),
    strict=True,
  )  # fmt: skip
  requests = [Request(*each, source=source) for *each, source in told]
  frames = tqdm(total=len(files) * options.frames, unit="frame", disable=None)
  off = None if F.live_steps else True
  calls = model_calls(pipeline, requests, F.batch, options)
  steps = tqdm(total=calls, unit="step", disable=off)
  with frames, steps:
    generate_clips(
      pipeline,
      requests,
      seed=F.seed,
      batch=F.batch,
      later=generate_flags.later(),
      sheet=pathlib.Path(F.sheet) if F.sheet else None,
      progress=steps.update if F.live_steps else None,
      unit_done=frames.update,
      **changed,
    )
  for file in [*files, *[F.sheet] * bool(F.sheet)]:
    print(file)
  print(f"{pipeline.phases}\n{programs}")


def main():
  """Makes the clips that the flags describe, or those of a benchmark."""
  (benchmark.main if F.benchmark else generate)()


def run():
  """Entry point."""
  app.run(main, continues=lambda: bool(F.benchmark))


if __name__ == "__main__":
  run()
