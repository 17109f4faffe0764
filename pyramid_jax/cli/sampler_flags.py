"""The flags of every command that generates: a model and its sampler."""

from absl import flags

from pyramid_jax.cli import mesh_flag
from pyramid_jax.config import PRESETS, ConfigError

F = flags.FLAGS
flags.DEFINE_enum("preset", None, sorted(PRESETS), "Size and guidance.")
flags.DEFINE_float("seconds", None, "Length; the next 8 n + 1 frames.")
flags.DEFINE_string("vae", "", "The VAE's workdir, if it moved.")
flags.DEFINE_string("text", "", "The text encoder's folder, if it moved.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Which weights.")
flags.DEFINE_bool(
  "low_memory", False, "Load text encoder, transformer and VAE in turn."
)
flags.DEFINE_integer("height", None, "Of the frames, in pixels.")
flags.DEFINE_integer("width", None, "Of the frames, in pixels.")
flags.DEFINE_integer("frames", None, "Of the video, 8 n + 1.")
flags.DEFINE_list("steps", None, "Of each stage, first frame, as 20,20,20.")
flags.DEFINE_list("video_steps", None, "Of each stage, later frames.")
flags.DEFINE_float("guidance", None, "Of the first frame; 0: none at all.")
flags.DEFINE_float("video_guidance", None, "Of the later frames.")
flags.DEFINE_float("guidance_decay", None, "Subtracted from it every unit.")
flags.DEFINE_string("negative_prompt", None, "What guidance leads away from.")
flags.DEFINE_string("prompt_suffix", None, "Added to every prompt.")
flags.DEFINE_integer("tile", None, "Pixels a side of a VAE tile; 0: none.")
flags.DEFINE_bool(
  "renoise", None, "Corrective noise at the jump between stages."
)
mesh_flag.define("a sample a device; sequence splits long clips")
flags.declare_key_flag("mesh")
OPTIONS = ("height", "width", "frames", "steps", "video_steps", "guidance",
           "video_guidance", "guidance_decay", "negative_prompt",
           "prompt_suffix", "tile", "renoise")  # fmt: skip


def refuse(*names: str):
  """Refuses flags that a command without a sampler would not heed.

  Args:
    names: of more flags that mean nothing there.

  Raises:
    ConfigError: names those that are given.
  """
  names = ("preset", "seconds", "text", "weights", "low_memory", "mesh",
           *OPTIONS, *names)  # fmt: skip
  given = [f"--{name}" for name in names if F[name].value != F[name].default]
  if given:
    raise ConfigError(
      f"{', '.join(given)}: nothing is generated without --workdir; leave it "
      "out, or give a --workdir."
    )


def load(workdir: str, mesh=None):
  """The pipeline of a workdir on a mesh, by default that of --mesh."""
  mesh = mesh or mesh_flag.get()  # before a device is used
  from pyramid_jax.generate.pipeline import Pipeline

  return Pipeline.load(
    workdir, vae=F.vae, text=F.text, weights=F.weights, mesh=mesh,
    low_memory=F.low_memory,
  )  # fmt: skip


def changes(fps: float) -> dict:
  """What the flags change of the checkpoint's settings."""
  given = {name: getattr(F, name) for name in OPTIONS}
  for name in ("steps", "video_steps"):
    try:
      given[name] = given[name] and tuple(map(int, given[name]))
    except ValueError:
      raise ConfigError(
        f"--{name}={','.join(given[name])} is not a list of numbers."
      ) from None
  if F.seconds is not None and F.frames is None:
    given["frames"] = max(round(F.seconds * fps / 8), 0) * 8 + 1
  preset = PRESETS[F.preset] if F.preset else {}
  if F.video_guidance is not None:
    given["given_guidance"] = 0.0  # what is said holds for both
  return {**preset, **{k: v for k, v in given.items() if v is not None}}
