"""miniFLUX on 768p video: last stage of the curriculum.

Command:
  pyramid-train --config=configs/miniflux_768p.py \
    --workdir=runs/miniflux/768p \
    --data=latents/768p,latents/images
Hardware: 128 A100 of 80 GB; the paper reports
  60 h for 50k steps at 5 to 10 s (for the
  MM-DiT).
Expected: not run here; docs/scale.md has the plan for other machines.
Tokens a step: 128 rows of 16,128 latent and 256 text tokens, 2,097,152 in all;
  379 samples.
"""

import pathlib
import runpy

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config():
  """The run as a ConfigDict."""
  return runpy.run_path(str(CURRICULUM))["get_config"]("miniflux_768p")
