"""What compilers for machines that are not there want to find."""

import os


def prepare(target) -> None:
  """Sets it; before JAX opens a device, as nothing may be opened.

  Args:
    target: the machine, see `cost/chips.py`.
  """
  import jax

  # not by the environment: a config file may have imported JAX already
  jax.config.update("jax_platforms", "cpu")
  if target.platform == "cpu":
    count = f"--xla_force_host_platform_device_count={target.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_ACCELERATOR_TYPE", "v5p-8"),  # of this host; any stops a warning
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # no device is opened
    ("TPU_STDERR_LOG_LEVEL", "3"),
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
  ):
    os.environ.setdefault(name, value)
