"""The whole path, small enough for a test: every command runs in seconds.

32 x 32 pixels, two stages, a VAE of two levels (2 x 2 x 2), one block; eight
devices, as in every test, so that compiled programs are shared with them.
"""

from pyramid_jax.config import settings

VAE_PHASE = dict(steps=2, batch=8, frames=1, height=32, width=32)


def get_config(kind="dit"):
  """`kind` is "vae" or "dit"."""
  return settings(
    kind=kind,
    flow=dict(stages=2, stage_range=(0.0, 0.5, 1.0)),
    vae=dict(
      channels=(4, 4),
      encoder_blocks=1,
      decoder_blocks=1,
      latent_channels=4,
      groups=2,
      down_space=(True, False),
      down_time=(True, False),
      dtype="float32",
    ),
    model=dict(
      layers=1,
      heads=2,
      head_dim=8,
      latent_channels=4,
      text_dim=64,
      pooled_dim=64,
      table_size=8,
      table_base=8,
      dtype="float32",
      remat="none",
    ),
    text=dict(dtype="float32"),
    videos=dict(phases=(VAE_PHASE,)),
    encode=dict(sizes=((32, 32),), max_frames=9, min_frames=9, batch=8),
    latents=dict(
      rows=8, latent_tokens=192, text_tokens=64, segments=4, window=64
    ),
    optimizer=dict(learning_rate=1e-2, warmup=0, ema=0.5),
    train=dict(steps=2, log_every=1, save_every=1, eval_clips=4),
    generate=dict(
      height=32,
      width=32,
      frames=5,
      steps=(1, 1),
      video_steps=(1, 1),
      guidance=2.0,
      video_guidance=2.0,
    ),
  )
