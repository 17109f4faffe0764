"""miniFLUX on images: first stage of the curriculum.

Command, which launch/slurm.sh starts on all nodes:
  pyramid-train --config=configs/miniflux_image.py \
    --workdir=runs/miniflux/image --data=latents/images \
    --config.mesh.data=-1 --config.mesh.fsdp=8
Hardware: 128 A100 of 80 GB; configs/curriculum.py has the mesh of others.
Hours reported in the paper, of the MM-DiT: 12 for 50k steps.
Hours planned: v5p-128 6.0 to 10.1, v6e-256 1.8 to 3.8, 128 A100 3.5 to 7.3, 128
  H100 1.1 to 3.3.
Expected: not run here; docs/scale.md says how the hours were planned.
Tokens a step: 128 rows of 5,376 latent and 768 text tokens, 786,432 in all;
  1,574 samples with the prompts that configs/curriculum.py assumes.
"""

import pathlib
import runpy

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config():
  """The run as a ConfigDict."""
  return runpy.run_path(str(CURRICULUM))["get_config"]("miniflux_image")
