"""The 2 B MM-DiT on 768p video: last stage of the curriculum.

Command:
  pyramid-train --config=configs/mmdit_2b_768p.py --workdir=runs/768p \
    --data=latents/768p
Hardware: 128 A100 of 80 GB; the paper reports
  60 h for 50k steps at 5 to 10 s.
Expected: not run here. The paper's figures are its own; the plan and the
settings are those of its Sec. 4.1 and the released training scripts.
"""

from pyramid_jax.config import settings


def get_config():
  """The run as a ConfigDict."""
  return settings(
    text=dict(path="text_encoders"),
    encode=dict(
      sizes=((768, 1280), (1280, 768)), max_frames=241, min_frames=121
    ),
    latents=dict(
      sources=(dict(path="latents/768p"),),
      rows=128,
      latent_tokens=16384,
      text_tokens=256,
      segments=8,
    ),
    optimizer=dict(learning_rate=5e-5, beta2=0.95),
    train=dict(steps=50_000),
    generate=dict(height=768, width=1280, frames=241),
  )
