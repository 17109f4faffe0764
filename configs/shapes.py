"""The embedded dataset at 128 x 128, 4 s, on one GPU; both transformers.

Commands (WHICH is mmdit or miniflux):
  pyramid-shapes --out=runs/shapes/data --text=runs/shapes/text_WHICH \\
    --clips=8192 --heldout=500 --frames=97 --size=128 \\
    --text_kind=KIND   (sd3 or flux)
  pyramid-train --config=configs/shapes.py:vae --workdir=runs/shapes/vae
  pyramid-encode --config=configs/shapes.py:WHICH --vae=runs/shapes/vae \\
    --videos=runs/shapes/data --out=runs/shapes/latents_WHICH --threads=8
  pyramid-shapes --out=runs/shapes/images --text=runs/shapes/text_WHICH \\
    --clips=16384 --frames=1 --size=128 --seed=1
  pyramid-encode --config=configs/shapes.py:WHICH --vae=runs/shapes/vae \\
    --videos=runs/shapes/images --out=runs/shapes/image_latents_WHICH \\
    --config.encode.max_frames=1 --config.encode.min_frames=1 \\
    --config.encode.batch=64 --threads=8
  pyramid-plan --config=configs/shapes.py:WHICH --topology=h100:1
    (reads the stores: how full the rows are)
  pyramid-train --config=configs/shapes.py:WHICH --workdir=runs/shapes/WHICH
  pyramid-evaluate --workdir=runs/shapes/WHICH --n=500 --batch=32 \\
    --out=runs/shapes/evaluation_WHICH
Hardware: one H100 class GPU with 16 CPU cores (`workers` is for these); lengths
  are meant for 20 minutes in all with one of the transformers.
Expected: not run; lengths and rates are guesses. What was found on the CPU
  (configs/shapes_cpu.py) is in it: eight latent channels, images first, Muon.
  Planned (pyramid-plan): a step takes 46 to 54 ms (mmdit) or 53 to 64
  (miniflux) on an H100, so that 6,000 take 5 to 6 minutes, and 15 or 16 GiB;
  the steps of the VAE take one minute. Not planned: encoding, sampling,
  compiling.
  Measured, CPU time of a core of 2.8 GHz that others use, too: drawing 0.15 to
  0.25 s a clip and 4 ms an image; beside it one process writes, 3 ms a clip. A
  batch of the VAE 0.14 s (images) or 0.04 s (clips), a batch of rows 0.20 s
  (images) or 0.15 s (both). Unpacking a clip to encode it 6 ms,
  storing a generated one 0.13 s, reading it 0.45 s.
  By division, if nothing is lost: drawing all clips 22 to 36 minutes of one
  core, 2 of 16; reading 500 clips 14 s of 16; those batches 12, 4, 17
  and 13 ms by 12 processes.
"""

from pyramid_jax.config import settings
from pyramid_jax.strict import check_choice

FOLDER = "runs/shapes"
WORKERS = 12  # of 16 cores; processes that load
VAE_PHASES = (
  dict(steps=3000, batch=32, frames=1, height=128, width=128),
  dict(steps=2000, batch=4, frames=17, height=128, width=128, rate=0.5),
)
MODEL = dict(
  latent_channels=8, text_dim=64, pooled_dim=64, head_dim=64, heads=6,
  remat="none",
)  # fmt: skip
MODELS = {
  "mmdit": dict(MODEL, layers=10, table_size=16, table_base=16),
  "miniflux": dict(
    MODEL, kind="flux", layers=4, single_layers=10, rotary_dims=(16, 24, 24)
  ),
}


def get_config(which="mmdit"):
  """`which` is "vae", "mmdit" or "miniflux": what pyramid-train trains."""
  check_choice(which, ("vae", *MODELS))
  vae = which == "vae"
  model = "mmdit" if vae else which
  optimizer = dict(method="muon", warmup=100, schedule="cosine", beta2=0.99)
  if vae:
    optimizer |= dict(learning_rate=2e-3, ema=0.99)
    train = dict(steps=sum(p["steps"] for p in VAE_PHASES), log_every=50)
  else:
    optimizer |= dict(learning_rate=5e-3, ema=0.999)
    train = dict(steps=6000, log_every=100)
  return settings(
    kind="vae" if vae else "dit",
    vae=dict(
      channels=(32, 64, 128, 128),
      encoder_blocks=1,
      decoder_blocks=1,
      latent_channels=8,
      groups=8,
      sample=False,
    ),
    model=MODELS[model],
    vae_loss=dict(kl=1e-4),
    text=dict(
      path=f"{FOLDER}/text_{model}",
      kind="sd3" if model == "mmdit" else "flux",
      dtype="float32",
    ),
    videos=dict(path=f"{FOLDER}/data", phases=VAE_PHASES, workers=WORKERS),
    encode=dict(sizes=((128, 128),), max_frames=97, min_frames=97, batch=16),
    latents=dict(
      sources=(
        dict(path=f"{FOLDER}/latents_{model}"),
        dict(path=f"{FOLDER}/image_latents_{model}"),
      ),
      periods=(
        dict(steps=2500, max_units=1, weights=(1, 2)),
        dict(steps=3500, weights=(7, 1)),
      ),
      rows=16,
      # latents and text fill 96% and 98% with images alone, then 98% and 44%;
      # of 2,048 tokens in all no other parts take in as much of both periods
      latent_tokens=1536,
      text_tokens=512,
      segments=56,
      window=4096,
      workers=WORKERS,
    ),
    optimizer=optimizer,
    train={**train, "save_every": 1000, "keep": 10},
    generate=dict(
      height=128,
      width=128,
      frames=97,
      steps=(10, 10, 10),
      video_steps=(10, 10, 10),
      guidance=3.0,
      video_guidance=3.0,
    ),
  )
