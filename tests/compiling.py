"""How tests compile: they compile much and run little."""

import importlib.metadata

QUICKLY = [
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
  # fusions of the older kind compile in half the time; later ones lack them
  QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
QUICKLY = " ".join(QUICKLY)
