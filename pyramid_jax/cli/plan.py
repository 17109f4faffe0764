"""pyramid-plan: what a run needs and how long it takes, before it is paid for.

  pyramid-plan --config=configs/mmdit_2b_768p.py --topology=v5p:4x4x4
  pyramid-plan --config=configs/mmdit_2b_768p.py --topology=v6e:16x16 --sweep

Compiles the very training step for a machine that need not be there (TPUs: pip
install "jax[tpu]"; GPUs: "jax[cuda13]") and prints memory, operations, traffic
and an estimate of time. Exit code 1 if it does not fit.
"""

import dataclasses
import os

from absl import flags

from pyramid_jax.cli import app
from pyramid_jax.cli import config as config_flag
from pyramid_jax.config import Config, ConfigError

F = flags.FLAGS
flags.declare_key_flag("config")
flags.DEFINE_string(
  "topology",
  None,
  "A slice: v5p:4x4x8, v6e:16x16, h100:8, cpu:8 (no estimate).",
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
  "hbm_gib", None, "Limit in place of the chip's memory.", lower_bound=1e-6
)
flags.DEFINE_list(
  "stages", [], "Config files of the curriculum's other stages: their days."
)


def prepare(target):
  """What compilers without a device want to find, before JAX starts."""
  import jax

  # not by the environment: a config file may have imported JAX already
  jax.config.update("jax_platforms", "cpu")
  if target.platform == "cpu":
    count = f"--xla_force_host_platform_device_count={target.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # no device is opened
    ("TPU_STDERR_LOG_LEVEL", "3"),
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
  ):
    os.environ.setdefault(name, value)


def chosen() -> Config:
  """The config, as a VAE's if that is asked."""
  config = config_flag.get()
  if F.vae and F.generate:
    raise ConfigError("give --vae or --generate, not both.")
  if F.vae and config.kind != "vae":
    steps = sum(phase.steps for phase in config.videos.phases)
    train = dataclasses.replace(config.train, steps=steps)
    warmup = min(config.optimizer.warmup, steps - 1)
    optimizer = dataclasses.replace(config.optimizer, warmup=warmup)
    config = dataclasses.replace(
      config, kind="vae", train=train, optimizer=optimizer
    )
  return config


def main() -> int:
  """Plans, prints, and says by the exit code whether it fits."""
  app.require("config", "topology")
  from pyramid_jax.cost import chips

  target = chips.target(F.topology, F.platform, F.slices)
  config = chosen()
  prepare(target)
  from pyramid_jax.cost import plan, report

  others = [(path, config_flag.read(path)) for path in F.stages]
  limit = F.hbm_gib * chips.GIB if F.hbm_gib else None
  plans = plan.make(
    config, target, generate=F.generate, limit=limit, quick=F.quick
  )
  for each in plans:
    print(report.text(report.lines(each), F.markdown), end="\n\n")
  extra = report.clip(plans) if F.generate else []
  if plans[0].run is not None and others:
    extra = report.course(plans[0], others)
  if extra:
    print(report.text(extra, F.markdown), end="\n\n")
  if F.sweep:
    rows = [
      report.sweep_row(*each)
      for each in plan.sweep(config, target, limit, F.quick)
    ]
    print(report.table(report.SWEEP, rows, F.markdown))
  return 0 if all(p.compiled.fits for p in plans) else 1


def run():
  """Entry point."""
  app.run(main, config_flag.check)


if __name__ == "__main__":
  run()
