"""pyramid-plan: what a run needs and how long it takes, before it is paid for.

  pyramid-plan --config=configs/mmdit_2b_768p.py --topology=v5p:4x4x4
  pyramid-plan --config=configs/mmdit_2b_768p.py --topology=v6e:16x16 --sweep

Compiles the very training step for a machine that need not be there (TPUs: pip
install "jax[tpu]"; GPUs: "jax[cuda13]") and prints memory, operations, traffic
and an estimate of time. Exit code 1 if it does not fit.
"""

from absl import flags

from pyramid_jax.cli import app, compilers
from pyramid_jax.cli import config as config_flag
from pyramid_jax.config import Config, ConfigError

F = flags.FLAGS
flags.declare_key_flag("config")
flags.DEFINE_string(
  "topology", None, "A slice: v5p:4x4x8, v6e:16x16, h100:8; cpu:8: no estimate."
)
flags.DEFINE_enum(
  "platform", "", ["", "tpu", "cuda", "cpu"], "Checked against --topology."
)
flags.DEFINE_integer(
  "slices", 1, "Slices of that shape; the data axis lies across them."
)
flags.DEFINE_bool("generate", False, "Plan the sampler (config.generate).")
flags.DEFINE_bool("vae", False, "Plan VAE training (config.videos.phases).")
flags.DEFINE_bool("sweep", False, "Also with other rows, remat and meshes.")
flags.DEFINE_bool(
  "quick", False, "Compile in less time; the memory may be overestimated."
)
flags.DEFINE_bool("markdown", False, "Print tables in Markdown.")
flags.DEFINE_float(
  "hbm_gib", None, "Limit in place of the memory there is.", lower_bound=1e-6
)
flags.DEFINE_float(
  "slow_gbps",
  None,
  "Gbit/s a device sends between nodes or slices, in place of the table's.",
  lower_bound=1e-6,
)
flags.DEFINE_list(
  "stages", [], "Config files of the curriculum's other stages: their days."
)


def main() -> int:
  """Plans, prints, and says by the exit code whether it fits."""
  app.require("config", "topology")
  from pyramid_jax.cost import chips

  slow = F.slow_gbps * 1e9 / 8 if F.slow_gbps else None
  target = chips.target(F.topology, F.platform, F.slices, slow)
  asked = config_flag.get()
  of_vae = F.vae or asked.kind == "vae"
  if F.vae + F.generate + F.sweep > 1 or (of_vae and F.sweep):
    raise ConfigError(
      "give --vae, --generate or --sweep, one of them; --sweep is of a "
      "transformer's training."
    )
  if F.stages and (of_vae or F.generate or target.chip is None):
    raise ConfigError(
      "--stages adds the days of a transformer's other stages to this one's: "
      "leave it out with --vae, --generate, a VAE's config and --topology=cpu."
    )
  others = stages()
  compilers.prepare(target)
  from pyramid_jax.cost import jobs, plan, report, variants

  asked = jobs.of_vae(asked) if F.vae else asked
  config = asked if F.generate else variants.suited(asked, target)
  limit = F.hbm_gib * chips.GIB if F.hbm_gib else None
  options = dict(limit=limit, quick=F.quick)
  plans = []
  for each in plan.make(config, target, generate=F.generate, **options):
    if not plans:
      show(report.advice(asked, config))
    plans.append(each)
    show(report.text(report.lines(each), F.markdown))
  if F.generate:
    show(report.text(report.clip(plans), F.markdown))
  elif of_vae:
    show(report.text(report.phases(plans), F.markdown))
  elif others:
    show(report.text(report.course(plans[0], others), F.markdown))
  if F.sweep:
    for line in report.sweep(variants.sweep(plans[0], **options), F.markdown):
      print(line, flush=True)
  return 0 if all(p.compiled.fits for p in plans) else 1


def stages() -> list[tuple[str, Config]]:
  """The configs that --stages names, with their names.

  Raises:
    ConfigError: one that cannot be read, or is a VAE's.
  """
  found = [(path, config_flag.read(path)) for path in F.stages]
  for path, config in found:
    if config.kind != "dit":
      raise ConfigError(
        f"--stages={path}: it trains a VAE; name configs of the transformer's "
        "other stages, such as configs/mmdit_2b_384p.py."
      )
  return found


def show(text: str) -> None:
  """Prints a block, if there is something in it, as soon as it is there."""
  if text:
    print(text, end="\n\n", flush=True)


def run():
  """Entry point."""
  app.run(main, config_flag.check)


if __name__ == "__main__":
  run()
