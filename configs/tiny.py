"""The whole system, small enough for two CPU cores.

Commands (launch/quickstart.sh runs them in this order):
  pyramid-shapes --out=quickstart/shapes --text=quickstart/text
  pyramid-train --config=configs/tiny.py:vae --workdir=quickstart/vae
  pyramid-encode --config=configs/tiny.py --videos=quickstart/shapes \\
    --vae=quickstart/vae --out=quickstart/latents
  pyramid-train --config=configs/tiny.py --workdir=quickstart/train
Hardware: two CPU cores, 6 GB of memory; also any single GPU or TPU.
Expected: PSNR 22 dB on held-out clips; the flow loss falls to about a fifth of
  its first value; backgrounds are right, colours mostly, shapes are not sharp.
"""

from pyramid_jax.config import settings

VAE_PHASES = (
  dict(steps=360, batch=4, frames=1, height=64, width=64),
  dict(steps=100, batch=1, frames=9, height=64, width=64, rate=0.3),
)


def get_config(kind="dit"):
  """`kind` is "vae" or "dit": what pyramid-train trains."""
  optimizer = dict(
    learning_rate=2e-3, warmup=20, schedule="cosine", beta2=0.99, ema=0.98
  )
  if kind == "vae":
    # 600 steps of single frames: 26.2 dB against AdamW's 22.4; a transformer of
    # this size gains nothing
    optimizer |= dict(method="muon", muon_iterations=4)
    train = dict(
      steps=sum(p["steps"] for p in VAE_PHASES), log_every=20, pictures=100
    )
  else:
    train = dict(steps=850, log_every=50)
  return settings(
    kind=kind,
    vae=dict(
      channels=(16, 16, 32, 64),
      encoder_blocks=1,
      decoder_blocks=1,
      groups=4,
      sample=False,
      dtype="float32",
    ),
    model=dict(
      layers=4,
      heads=4,
      head_dim=32,
      text_dim=64,
      pooled_dim=64,
      table_size=16,
      table_base=8,
      dtype="float32",
      remat="none",
    ),
    # A decoder that is used to noise forgives what the transformer gets wrong,
    # and a transformer that sees none learns faster.
    vae_loss=dict(kl=2e-4),
    text=dict(path="quickstart/text", dtype="float32"),
    videos=dict(path="quickstart/shapes", phases=VAE_PHASES),
    encode=dict(sizes=((64, 64),), max_frames=17, min_frames=9, batch=8),
    latents=dict(
      sources=(dict(path="quickstart/latents"),),
      rows=6,
      latent_tokens=80,
      text_tokens=80,
      segments=8,
      window=2048,
      segments_per_clip=2,
    ),
    optimizer=optimizer,
    train={**train, "save_every": 200},
    generate=dict(
      height=64,
      width=64,
      frames=17,
      steps=(8, 8, 8),
      video_steps=(8, 8, 8),
      guidance=7.0,
      video_guidance=5.0,
    ),
  )
