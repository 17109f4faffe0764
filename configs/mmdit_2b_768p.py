"""The 2 B MM-DiT on 768p video: last stage of the curriculum.

Command, which launch/slurm.sh starts on all nodes:
  pyramid-train --config=configs/mmdit_2b_768p.py \
    --workdir=runs/mmdit/768p --data=latents/768p,latents/images_768p \
    --config.mesh.data=-1 --config.mesh.fsdp=8
It starts from the weights in runs/mmdit/384p_5s; where these lie elsewhere, add
  --config.train.init=THERE.
Hardware: 128 A100 of 80 GB; configs/curriculum.py has the mesh of others.
Hours reported in the paper: 60 for 50k steps at 5 to 10 s.
Hours planned: v5p-128 18.5 to 25.9, v6e-256 3.9 to 8.5, 128 A100 12.1 to 17.6,
  128 H100 3.8 to 7.1.
Expected: not run here; docs/scale.md says how the hours were planned.
Tokens a step: 128 rows of 16,128 latent and 256 text tokens, 2,097,152 in all;
  373 samples with the prompts that configs/curriculum.py assumes.
"""

import pathlib
import runpy

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config():
  """The run as a ConfigDict."""
  return runpy.run_path(str(CURRICULUM))["get_config"]("mmdit_768p")
