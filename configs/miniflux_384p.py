"""miniFLUX on 384p video, the authors' second transformer.

Command:
  pyramid-encode --config=configs/miniflux_384p.py --videos=VIDEOS \
    --vae=OURS/causal_video_vae --out=latents/384p
  pyramid-train --config=configs/miniflux_384p.py --workdir=runs/miniflux \
    --data=latents/384p,latents/images
Hardware: as configs/mmdit_2b_384p.py, whose settings these are; 1.97 B
  parameters, text from T5 and CLIP-L alone.
Expected: not run here.
"""

import dataclasses

from pyramid_jax.config import MINIFLUX, settings


def get_config():
  """The run as a ConfigDict."""
  return settings(
    model=dataclasses.asdict(MINIFLUX),
    text=dict(path="text_encoders", kind="flux"),
    encode=dict(sizes=((384, 640), (640, 384)), max_frames=121, min_frames=49),
    latents=dict(
      sources=(
        dict(path="latents/384p", weight=0.875),
        dict(path="latents/images", weight=0.125),
      ),
      rows=128,
      latent_tokens=16384,
      text_tokens=896,
      segments=40,
    ),
    optimizer=dict(learning_rate=1e-4, beta2=0.95),
    train=dict(steps=200_000),
  )
