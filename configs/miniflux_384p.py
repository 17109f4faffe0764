"""miniFLUX on 384p video: second stage of the curriculum.

Command:
  pyramid-train --config=configs/miniflux_384p.py:2s \
    --workdir=runs/miniflux/384p_2s \
    --data=latents/384p,latents/images
  pyramid-train --config=configs/miniflux_384p.py:5s \
    --workdir=runs/miniflux/384p_5s \
    --data=latents/384p,latents/images
Hardware: 128 A100 of 80 GB; the paper reports
  90 h for 80k steps at 2 s and 120k at 5 s (for the MM-DiT).
Expected: not run here; docs/scale.md has the plan for other machines.
Tokens a step: 128 rows of 5,248 + 384 (2s) or 6,240 + 416 (5s) latent and text
  tokens, 720,896 or 851,968 in all; 757 or 781 samples.
"""

import pathlib
import runpy

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config(duration="5s"):
  """`duration` is 2s, or 5s, which starts from the run at 2s."""
  make = runpy.run_path(str(CURRICULUM))["get_config"]
  return make(f"miniflux_384p_{duration}")
