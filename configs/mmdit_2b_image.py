"""The 2 B MM-DiT on images: first stage of the curriculum.

Command:
  pyramid-train --config=configs/mmdit_2b_image.py --workdir=runs/image \
    --data=latents/images
Hardware: 128 A100 of 80 GB; the paper reports
  12 h for 50k steps.
Expected: not run here. The paper's figures are its own; the plan and the
settings are those of its Sec. 4.1 and the released training scripts.
"""

from pyramid_jax.config import settings


def get_config():
  """The run as a ConfigDict."""
  return settings(
    text=dict(path="text_encoders"),
    latents=dict(
      rows=128,
      latent_tokens=16384,
      text_tokens=2176,
      segments=96,
    ),
    optimizer=dict(learning_rate=1e-4, beta2=0.999),
    train=dict(steps=50_000),
  )
