"""pyramid-shapes: writes the embedded dataset and its tiny text encoders.

  pyramid-shapes --out=quickstart/shapes --text=quickstart/text

Captioned clips of moving shapes, rendered here; text encoders with fixed
random weights and tokenizers of the captions' words, in the folder layout of
the released ones.
"""

import pathlib

from absl import flags

from pyramid_jax.cli import app
from pyramid_jax.config import ConfigError, UserError

F = flags.FLAGS
flags.DEFINE_string("out", None, "Folder of the clips.")
flags.DEFINE_string("text", None, "Folder of the text encoders.")
flags.DEFINE_integer("clips", 512, "Clips to train on.")
flags.DEFINE_integer("heldout", 64, "Clips held out.")
flags.DEFINE_integer("frames", 17, "8 n + 1, at 24 a second.")
flags.DEFINE_integer("size", 64, "Height and width in pixels.")
flags.DEFINE_integer("seed", 0, "Of clips and text encoders.")
flags.DEFINE_enum(
  "text_kind", "sd3", ["sd3", "flux"], "Of the text encoders: sd3 or flux."
)
flags.DEFINE_float("two_objects", 0.0, "Share of clips with two objects.")
flags.DEFINE_integer(
  "workers", 0, "Processes that draw; 0: one for each core. The clips are the "
  "same.", lower_bound=0,
)  # fmt: skip


def check_text(folder: str, kind: str) -> None:
  """Refuses a folder that has no text encoders of this kind.

  Raises:
    ConfigError: says what is wrong with it.
  """
  from pyramid_jax.convert import text_folder

  try:
    text_folder.read_configs(folder, kind)
  except UserError as error:
    raise ConfigError(
      f"--text={folder} is there and has no text encoders of --text_kind="
      f"{kind} ({error}) Name another folder, or remove this one."
    ) from error


def main():
  """Writes what is not there yet."""
  app.require("out", "text")
  if kept := pathlib.Path(F.text).exists():
    check_text(F.text, F.text_kind)
  from pyramid_jax.convert.tiny_text import write_tiny_text_encoders
  from pyramid_jax.data import shapes_store, workers

  settings = shapes_store.ShapesConfig(
    clips=F.clips,
    heldout=F.heldout,
    seed=F.seed,
    frames=F.frames,
    height=F.size,
    width=F.size,
    two_objects=F.two_objects,
  )
  folder = shapes_store.write(F.out, settings, F.workers or workers.cores())
  if not kept:
    captions = shapes_store.Stored(folder).captions()
    write_tiny_text_encoders(F.text, captions, seed=F.seed, kind=F.text_kind)
  found = " (they were there, and are kept as they are)" if kept else ""
  print(f"clips: {F.out}\ntext encoders: {F.text}{found}")


def run():
  """Entry point."""
  app.run(main)


if __name__ == "__main__":
  run()
