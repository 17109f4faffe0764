"""NVIDIA GPUs as XLA's compiler wants them described, so that none is needed.

The figures are those that a device reports of itself.
"""

import importlib.metadata
from typing import Any

from jax.experimental import topologies

from pyramid_jax.config import ConfigError
from pyramid_jax.cost.chips import GPU_80GB

COMMON = f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 device_memory_size: {GPU_80GB}
"""
RUNTIME = """platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 12 minor: 9 patch: 0 }
"""
OWN = {
  "a100": """shared_memory_per_core: 167936 core_count: 108 fpus_per_core: 64
  memory_bandwidth: 2039000000000 l2_cache_size: 41943040 clock_rate_ghz: 1.41
  shared_memory_per_block_optin: 166912 cuda_compute_capability { major: 8 } }
device_description_str: "NVIDIA A100-SXM4-80GB"
""",
  "h100": """shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 } }
device_description_str: "NVIDIA H100 80GB HBM3"
""",
  # an H100 with other memory; the compiler schedules for 80 GB of it
  "h200": """shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 } }
device_description_str: "NVIDIA H200"
""",
}
NODE = 8  # GPUs of a machine


def devices(name: str, count: int) -> list[Any]:
  """`count` GPUs in machines of eight.

  Raises:
    ConfigError: the CUDA plugin is not installed, with the command that does.
  """
  node = min(count, NODE)
  if count % node:
    raise ConfigError(
      f"{count} GPUs are no whole machines of {NODE}; nearest: "
      f"{-(-count // NODE) * NODE}."
    )
  try:
    return topologies.get_topology_desc(
      platform="cuda",
      topology_name=name,
      target_config=COMMON + OWN[name] + RUNTIME,
      topology=f"1x{count // node}x{node}",
    ).devices
  except Exception as error:  # the plugin has no class of its own
    version = importlib.metadata.version("jax")
    raise ConfigError(
      f"planning for {name} needs JAX's CUDA plugin; it needs no GPU: pip "
      f'install "jax[cuda13]=={version}" ({str(error).splitlines()[0]})'
    ) from error
