"""FID on 3,000 MS-COCO captions: the spatial pyramid or none (paper Fig. 7).

Commands (WHICH is pyramid, or full: flow matching at full resolution alone):
  pyramid-train --config=configs/coco_3k.py:WHICH --workdir=runs/coco/WHICH \\
    --data=latents/images
  pyramid-generate --workdir=runs/coco/WHICH --benchmark=coco \\
    --prompts=captions.txt --out=runs/coco/WHICH/images
  pyramid-score clips runs/coco/WHICH/images
  pyramid-score frechet val2014 runs/coco/WHICH/images \\
    --weights=pt_inception-2015-12-05-6726825d.pth
  captions.txt has 3,000 captions of the validation set, one a line, the same
  for both; so are the images' seeds. The rate is constant: for FID over steps
  train with --config.train.steps=10000, score, go on with 20000, to another
  folder of images, and so on.
Hardware: that of configs/mmdit_2b_image.py, whose model, data and optimizer
  both have: 128 A100 of 80 GB.
Expected: not run here. The paper's FID falls almost three times as fast with
  the pyramid; docs/ablations.md has what small models show.
Tokens a step: 128 rows of 6,144, 786,432 in all, and as many steps of the
  sampler. On assumed images a row of the pyramid holds 12.3 samples and is full
  to 97%; one at full resolution, 5,760 latent and 384 text tokens, 5.3 and 89%.
"""

import pathlib
import runpy

from pyramid_jax.strict import check_choice

CURRICULUM = pathlib.Path(__file__).with_name("curriculum.py")
SIZE = dict(height=512, width=512, frames=1)
VARIANTS = {
  "pyramid": dict(
    generate=dict(SIZE, steps=(20, 20, 20), video_steps=(20, 20, 20))
  ),
  # a sample has more latent tokens and as many of text
  "full": dict(
    flow=dict(stages=1, stage_range=(0.0, 1.0)),
    latents=dict(latent_tokens=5760, text_tokens=384, segments=16),
    generate=dict(SIZE, steps=(60,), video_steps=(60,)),
  ),
}


def get_config(which="pyramid"):
  """`which` is "pyramid" or "full", of one stage."""
  check_choice(which, VARIANTS)
  config = runpy.run_path(str(CURRICULUM))["get_config"]("mmdit_image")
  config.update(VARIANTS[which])
  return config
