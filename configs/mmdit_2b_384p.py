"""The 2 B MM-DiT on 384p video: second stage of the curriculum.

Commands, which launch/slurm.sh starts on all nodes:
  pyramid-train --config=configs/mmdit_2b_384p.py:2s \
    --workdir=runs/mmdit/384p_2s --data=latents/384p,latents/images \
    --config.mesh.data=-1 --config.mesh.fsdp=8
  pyramid-train --config=configs/mmdit_2b_384p.py:5s \
    --workdir=runs/mmdit/384p_5s --data=latents/384p,latents/images \
    --config.mesh.data=-1 --config.mesh.fsdp=8
They start from the weights in runs/mmdit/image and of the first of them; where
  these lie elsewhere, add --config.train.init=THERE.
Hardware: 128 A100 of 80 GB; configs/curriculum.py has the mesh of others.
Hours reported in the paper: 90 for 80k steps at 2 s and 120k at 5 s.
Hours planned at 2 s: v5p-128 6.3 to 11.3, v6e-256 2.7 to 5.9, 128 A100 3.7 to
  9.4, 128 H100 1.8 to 4.5.
Hours planned at 5 s: v5p-128 11.2 to 20.2, v6e-256 4.4 to 9.9, 128 A100 6.6 to
  15.5, 128 H100 2.7 to 7.3.
Expected: not run here; docs/scale.md says how the hours were planned.
Tokens a step: 128 rows of 5,248 + 384 (2s) or 6,240 + 416 (5s) latent and text
  tokens, 720,896 or 851,968 in all; 759 or 782 samples with the prompts that
  configs/curriculum.py assumes.
"""

import pathlib
import runpy

from pyramid_jax.strict import check_choice

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config(duration="5s"):
  """`duration` is 2s, or 5s, which starts from the run at 2s."""
  check_choice(duration, ("2s", "5s"))
  make = runpy.run_path(str(CURRICULUM))["get_config"]
  return make(f"mmdit_384p_{duration}")
