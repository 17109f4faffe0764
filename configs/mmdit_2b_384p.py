"""The 2 B MM-DiT on 384p video: second stage of the curriculum.

Command:
  pyramid-train --config=configs/mmdit_2b_384p.py --workdir=runs/384p \
    --data=latents/384p,latents/images
Hardware: 128 A100 of 80 GB; the paper reports
  90 h for 80k steps at 2 s and 120k at 5 s.
Expected: not run here. The paper's figures are its own; the plan and the
settings are those of its Sec. 4.1 and the released training scripts.
"""

from pyramid_jax.config import settings


def get_config():
  """The run as a ConfigDict."""
  return settings(
    text=dict(path="text_encoders"),
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
