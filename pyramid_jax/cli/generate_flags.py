"""The flags of pyramid-generate, and the prompts that they ask for."""

from absl import flags

from pyramid_jax.cli import sampler_flags
from pyramid_jax.config import ConfigError
from pyramid_jax.generate import benchmark

F = flags.FLAGS
flags.adopt_module_key_flags(sampler_flags)
flags.DEFINE_string(
  "workdir", None, "Workdir of pyramid-train or folder of pyramid-convert."
)
flags.DEFINE_multi_string("prompt", [], "What to generate; may be repeated.")
flags.DEFINE_string("prompts", None, "Text file, a prompt a line.")
flags.DEFINE_enum(
  "benchmark",
  None,
  sorted(benchmark.BENCHMARKS),
  "Makes the clips of --prompts as this benchmark reads them, in --out; for "
  "vbench VBench_full_info.json. Run again, it continues.",
)
flags.DEFINE_string(
  "heldout", None, "Embedded dataset: its held-out captions are the prompts."
)
flags.DEFINE_integer("clips", 6, "How many of --heldout.", lower_bound=1)
flags.DEFINE_string(
  "out", None, "File .mp4, .gif or .png, or a folder; one for several prompts."
)
flags.DEFINE_string("sheet", None, "Also write a contact sheet (.png).")
flags.DEFINE_integer("seed", 0, "Sample i draws from (seed, i).")
flags.DEFINE_integer("samples", 1, "Clips of each prompt.", lower_bound=1)
flags.DEFINE_integer("batch", 8, "Clips generated together.", lower_bound=1)
flags.DEFINE_multi_string(
  "image", [], "Image to begin with; one, or one a prompt."
)
flags.DEFINE_multi_string(
  "video", [], "Video to continue; one, or one a prompt."
)
flags.DEFINE_multi_string(
  "change", [], "UNIT:PROMPT, another prompt from a unit (8 frames) on."
)
flags.DEFINE_bool(
  "live_steps", False, "Move the bar at every step; programs are not kept."
)


def asked() -> tuple[list[str], list]:
  """The prompts, and a true clip beside each where there is one."""
  prompts = list(F.prompt)
  if F.prompts:
    prompts += benchmark.read_lines(F.prompts)
  truth = [None] * len(prompts)
  if F.heldout:
    from pyramid_jax.data.shapes_store import Stored

    stored = Stored(F.heldout, "heldout")
    for i in range(min(F.clips, len(stored))):
      prompts.append(stored[i].caption)
      truth.append(stored[i].video)
  if not prompts:
    raise ConfigError("there is no prompt; give --prompt, once or more.")
  return prompts, truth


def later() -> dict[int, str]:
  """The prompts of --change by their units."""
  result = {}
  for change in F.change:
    unit, colon, text = change.partition(":")
    if not (colon and unit.strip().isdigit()):
      raise ConfigError(f"--change={change!r} is not UNIT:PROMPT.")
    result[int(unit)] = text.strip()
  return result
