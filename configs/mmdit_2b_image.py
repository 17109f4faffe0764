"""The 2 B MM-DiT on images: first stage of the curriculum.

Command, which launch/slurm.sh starts on all nodes:
  pyramid-train --config=configs/mmdit_2b_image.py \
    --workdir=runs/mmdit/image --data=latents/images \
    --config.mesh.data=-1 --config.mesh.fsdp=8
Hardware: 128 A100 of 80 GB; configs/curriculum.py has the mesh of others.
Hours reported in the paper: 12 for 50k steps.
Hours planned: v5p-128 4.1 to 7.4, v6e-256 1.7 to 3.8, 128 A100 2.4 to 6.0, 128
  H100 1.1 to 2.9.
Expected: not run here; docs/scale.md says how the hours were planned.
Tokens a step: 128 rows of 5,376 latent and 768 text tokens, 786,432 in all;
  1,574 samples with the prompts that configs/curriculum.py assumes.
"""

import pathlib
import runpy

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config():
  """The run as a ConfigDict."""
  return runpy.run_path(str(CURRICULUM))["get_config"]("mmdit_image")
