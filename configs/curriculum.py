"""The paper's curriculum (Table 4), all stages of both transformers.

Command: those of configs/mmdit_2b_*.py and configs/miniflux_*.py, which are
  this file at one stage; pyramid-train --config=configs/curriculum.py:WHICH
  with mmdit or miniflux, then _image, _384p_2s, _384p_5s or _768p.
Hardware: devices of 32 GB and more, of 16 with --config.model.remat=layer; the
  128 rows of every stage go over 128 at most, more need a tensor axis. The
  meshes that docs/scale.md was planned with:
    v5p-128   --config.mesh.data=2 --config.mesh.fsdp=-1
    v6e-256   --config.mesh.fsdp=-1 --config.mesh.tensor=2
    128 A100  --config.mesh.data=-1 --config.mesh.fsdp=8
    128 H100  --config.mesh.data=-1 --config.mesh.fsdp=8
Expected: not run here; docs/scale.md has the plan.

The length of the rows makes the mean number of samples a step the paper's.
Planned on assumed clips with prompts of 62 +- 30 tokens (pyramid-plan prints
them), a row holds 12.3, 5.9, 6.1 and 2.9 samples in the order of the stages:
1574, 759, 782 and 373 a step, where the paper has 1536, 768, 768 and 384.
With captions at the cap of 128 tokens a step holds 812, 411, 425 and 268 (rows
56%, 56%, 56% and 71% full): then raise config.latents.text_tokens to what
pyramid-data info suggests.

Up to 20 steps of a stage may have a loss or gradient that is not finite; they
change no weight. The next one ends the run, for which a person has to look.
"""

import dataclasses

from pyramid_jax.config import MINIFLUX, settings
from pyramid_jax.strict import check_choice

IMAGES = dict(path="latents/images", weight=0.125, frames=(1, 1))
LARGE_IMAGES = dict(IMAGES, path="latents/images_768p")
VIDEO_384P = dict(path="latents/384p", weight=0.875, frames=(49, 121))
VIDEO_768P = dict(path="latents/768p", weight=0.875, frames=(121, 241))
# (height, width) of images, as the released code has them
IMAGE_384P = ((512, 512), (384, 640), (640, 384))
IMAGE_768P = ((1024, 1024), (768, 1280), (1280, 768))

STAGES = {
  "image": dict(
    encode=dict(
      sizes=IMAGE_384P, max_frames=1, min_frames=1
    ),
    latents=dict(
      sources=(dict(IMAGES, weight=1.0),), latent_tokens=5376, text_tokens=768,
      segments=40,
    ),
    optimizer=dict(learning_rate=1e-4, beta2=0.999),
    train=dict(steps=50_000),
    generate=dict(height=512, width=512, frames=1),
  ),
  "384p_2s": dict(
    encode=dict(
      sizes=((384, 640), (640, 384)), image_sizes=IMAGE_384P, max_frames=121,
      min_frames=49,
    ),
    latents=dict(
      sources=(VIDEO_384P, IMAGES), latent_tokens=5248, text_tokens=384,
      segments=24, max_units=7,
    ),
    optimizer=dict(learning_rate=1e-4, beta2=0.95),
    train=dict(steps=80_000),
    generate=dict(frames=49),
  ),
  "384p_5s": dict(
    encode=dict(
      sizes=((384, 640), (640, 384)), image_sizes=IMAGE_384P, max_frames=121,
      min_frames=49,
    ),
    latents=dict(
      sources=(VIDEO_384P, IMAGES), latent_tokens=6240, text_tokens=416,
      segments=24, max_units=16,
    ),
    optimizer=dict(learning_rate=1e-4, beta2=0.95),
    train=dict(steps=120_000),
  ),
  "768p": dict(
    encode=dict(
      sizes=((768, 1280), (1280, 768)), image_sizes=IMAGE_768P,
      max_frames=241, min_frames=121,
    ),
    latents=dict(
      sources=(VIDEO_768P, LARGE_IMAGES), latent_tokens=16128, text_tokens=256,
      segments=16,
    ),
    optimizer=dict(learning_rate=5e-5, beta2=0.95),
    train=dict(steps=50_000),
    generate=dict(height=768, width=1280, frames=241),
  ),
}  # fmt: skip


BEFORE = {"384p_2s": "image", "384p_5s": "384p_2s", "768p": "384p_5s"}
REMAT = "matmuls"  # docs/scale.md says why
MAX_NONFINITE = 20  # steps of a stage: a day's run does not end for one
MODELS = {
  "mmdit": dict(model=dict(remat=REMAT), text=dict(path="text_encoders")),
  "miniflux": dict(
    model=dict(dataclasses.asdict(MINIFLUX), remat=REMAT),
    text=dict(path="text_encoders", kind="flux"),
  ),
}


def get_config(which="mmdit_image"):
  """`which` is a transformer and a stage, joined by "_"."""
  check_choice(which, (f"{m}_{s}" for m in MODELS for s in STAGES))
  model, stage = which.split("_", 1)
  values = dict(STAGES[stage], **MODELS[model])
  values["latents"] = dict(values["latents"], rows=128)
  values["train"] = dict(values["train"], max_nonfinite=MAX_NONFINITE)
  # a stage with the seed of the one before would begin with its very draws
  values["seed"] = list(STAGES).index(stage)
  if stage in BEFORE:
    values["train"]["init"] = f"runs/{model}/{BEFORE[stage]}"
  return settings(**values)
