"""miniFLUX on images: first stage of the curriculum.

Command:
  pyramid-train --config=configs/miniflux_image.py \
    --workdir=runs/miniflux/image \
    --data=latents/images
Hardware: 128 A100 of 80 GB; the paper reports
  12 h for 50k steps (for the
  MM-DiT).
Expected: not run here; docs/scale.md has the plan for other machines.
Tokens a step: 128 rows of 5,376 latent and 768 text tokens, 786,432 in all;
  1,574 samples.
"""

import pathlib
import runpy

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")


def get_config():
  """The run as a ConfigDict."""
  return runpy.run_path(str(CURRICULUM))["get_config"]("miniflux_image")
