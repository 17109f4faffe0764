"""pyramid-generate: prompts to videos, from a training run's workdir.

  pyramid-generate --workdir=runs/dit --prompt="a red circle" --out=circle.mp4

Everything else is read from the checkpoint; flags change it.
"""

import pathlib

import numpy as np
from absl import flags
from tqdm import tqdm

from pyramid_jax.cli import app
from pyramid_jax.config import ConfigError
from pyramid_jax.generate import export

F = flags.FLAGS
flags.DEFINE_string("workdir", None, "Workdir of pyramid-train.")
flags.DEFINE_multi_string("prompt", [], "What to generate; may be repeated.")
flags.DEFINE_string("prompts", None, "Text file, a prompt a line.")
flags.DEFINE_string(
  "heldout", None, "Embedded dataset: its held-out captions are the prompts."
)
flags.DEFINE_integer("clips", 6, "How many of --heldout.", lower_bound=1)
flags.DEFINE_string(
  "out", None, "File .mp4, .gif or .png, or a folder; one for several prompts."
)
flags.DEFINE_string("sheet", None, "Also write a contact sheet (.png).")
flags.DEFINE_integer("seed", 0, "Sample i draws from (seed, i).")
flags.DEFINE_integer("batch", 8, "Samples generated together.", lower_bound=1)
flags.DEFINE_string("vae", "", "The VAE's workdir, if it moved.")
flags.DEFINE_string("text", "", "The text encoder's folder, if it moved.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Which weights.")
flags.DEFINE_integer("height", None, "Of the frames, in pixels.")
flags.DEFINE_integer("width", None, "Of the frames, in pixels.")
flags.DEFINE_integer("frames", None, "Of the video, 8 n + 1.")
flags.DEFINE_float("guidance", None, "Of the first frame; 0: none at all.")
flags.DEFINE_float("video_guidance", None, "Of the later frames.")
flags.DEFINE_string("negative_prompt", None, "What guidance leads away from.")
OPTIONS = ("height", "width", "frames", "guidance", "video_guidance",
           "negative_prompt")  # fmt: skip


def asked() -> tuple[list[str], list[np.ndarray | None]]:
  """The prompts, and a true clip beside each where there is one."""
  prompts = list(F.prompt)
  if F.prompts:
    path = pathlib.Path(F.prompts)
    if not path.is_file():
      raise ConfigError(f"--prompts: {path} is not a file.")
    prompts += [x.strip() for x in path.read_text().splitlines() if x.strip()]
  truth: list[np.ndarray | None] = [None] * len(prompts)
  if F.heldout:
    from pyramid_jax.data.shapes_store import Stored

    stored = Stored(F.heldout, "heldout")
    for i in range(min(F.clips, len(stored))):
      prompts.append(stored[i].caption)
      truth.append(stored[i].video)
  if not prompts:
    raise ConfigError("there is no prompt; give --prompt, once or more.")
  return prompts, truth


def paths(prompts: list[str]) -> list[pathlib.Path]:
  """A file for each prompt."""
  out = pathlib.Path(F.out)
  if len(prompts) == 1 and not F.out.endswith("/") and out.suffix:
    export.check_ending(out)
    return [out]
  if out.suffix:
    raise ConfigError(
      f"--out={out} is one file for {len(prompts)} prompts; name a folder."
    )
  names = export.numbered([export.slug(prompt) for prompt in prompts])
  return [out / f"{name}.mp4" for name in names]


def main():
  """Reads the model, generates in batches, writes clips and the sheet."""
  any_prompt = F.prompts or F.heldout
  app.require("workdir", "out", *[] if any_prompt else ["prompt"])
  prompts, truth = asked()
  files = paths(prompts)
  if F.sheet and not F.sheet.endswith(".png"):
    raise ConfigError(f"--sheet={F.sheet} must end in .png.")
  from pyramid_jax.generate.pipeline import Pipeline

  pipeline = Pipeline.load(F.workdir, vae=F.vae, text=F.text, weights=F.weights)
  changes = {name: getattr(F, name) for name in OPTIONS}
  options = pipeline.options(**changes)
  plan = pipeline.plan(options)
  clips: list[np.ndarray] = []
  bar = tqdm(total=len(prompts) * plan.units, unit="unit", disable=None)
  for start in range(0, len(prompts), F.batch):
    part = prompts[start : start + F.batch]
    frames = []
    for unit in pipeline.stream(part, seed=F.seed, first=start, **changes):
      frames.append(unit)
      bar.update(len(part))
    clips += list(np.concatenate(frames, 1))
  bar.close()
  for file, clip in zip(files, clips, strict=True):
    export.write_clip(file, clip, options.fps)
    print(file)
  if F.sheet:
    columns = [("generated", clips)]
    if any(clip is not None for clip in truth):
      columns.insert(0, ("ground truth", truth))
    export.contact_sheet(pathlib.Path(F.sheet), prompts, columns)
    print(F.sheet)


def run():
  """Entry point."""
  app.run(main)


if __name__ == "__main__":
  run()
