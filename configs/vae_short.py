"""The causal 3D VAE from scratch, first stage: images and clips of 17 frames.

Command:
  pyramid-train --config=configs/vae_short.py --workdir=runs/vae_short \
    --data=videos.jsonl --config.vae_loss.lpips=vgg_lpips.pth
Hardware: 8 accelerators of 80 GB, 2 clips on each; the released code asks for
  at least 8 A100.
Expected: not run here, on no machine.

Sizes, rates and weights are those of the released script: 256 px, clips of 17
frames, 16 a step, 200k steps at 1e-4 after 2k of warm-up, betas 0.9 and 0.95,
weight decay 1e-3, gradients clipped at 1. There one of 8 devices has 8 images
while the others have 14 clips; here one step in ten is images, 272, as many as
have the pixels of 16 clips. The rate falls to 0, there to 1e-5.

The released script leaves the discriminator out: it would start at step
250,000. To train with it:
  --config.vae_loss.adversary.kind=image \
  --config.vae_loss.adversary.start=50000
Without vgg_lpips.pth: --config.vae_loss.perceptual=0.
"""

from pyramid_jax.config import settings

LOSS = dict(pixel=10.0, perceptual=1.0, kl=1e-12, lpips="vgg_lpips.pth")
ADVERSARY = dict(weight=0.5, loss="hinge", start=250_000, warmup=2000)
OPTIMIZER = dict(
  learning_rate=1e-4,
  warmup=2000,
  schedule="cosine",
  beta2=0.95,
  epsilon=1e-8,
  weight_decay=1e-3,
  clip=1.0,
)
STEPS = 200_000


def get_config():
  """The run as a ConfigDict."""
  phase = dict(
    steps=STEPS, batch=16, frames=17, height=256, width=256, image_ratio=0.1
  )
  return settings(
    kind="vae",
    videos=dict(path="videos.jsonl", phases=(phase,), workers=8),
    vae_loss=dict(LOSS, adversary=ADVERSARY),
    optimizer=OPTIMIZER,
    train=dict(steps=STEPS),
  )
