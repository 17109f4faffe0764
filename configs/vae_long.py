"""The causal 3D VAE, second stage: clips of up to 257 frames.

Command:
  pyramid-train --config=configs/vae_long.py --workdir=runs/vae_long \
    --data=videos.jsonl --config.vae_loss.lpips=vgg_lpips.pth
Hardware: 64 TPU v5p, 8 to a clip: mesh axis `sequence` splits its height.
Expected: not run here, on no machine. pyramid-plan --vae --quick
  --topology=v5p:4x4x4 compiled its four steps in 23 minutes of one core's time:
  4.4, 7.6, 13.8 and 29.1 of 95 GiB a device; by the assumed efficiencies 0.10,
  0.20, 0.38 and 0.76 s a step if all overlaps and 0.20, 0.37, 0.72 and 1.41 s
  if nothing does, 20 to 38 hours in all.

It starts from the weights of runs/vae_short (configs/vae_short.py). Clips grow
from 33 frames, as in the released script, to the 257 that its comments name, a
quarter of the 200k steps each; the rate starts anew with each length. 8 clips a
step and no images, loss and optimizer as in the released script.
"""

import pathlib
import runpy

from pyramid_jax.config import settings

SHORT = pathlib.Path(__file__).with_name("vae_short.py")
FRAMES = (33, 65, 129, 257)


def get_config():
  """The run as a ConfigDict."""
  short = runpy.run_path(str(SHORT))
  each = short["STEPS"] // len(FRAMES)
  phases = tuple(
    dict(steps=each, batch=8, frames=frames, height=256, width=256)
    for frames in FRAMES
  )
  return settings(
    kind="vae",
    mesh=dict(sequence=8),
    vae=dict(remat=True),
    videos=dict(path="videos.jsonl", phases=phases, workers=8),
    vae_loss=dict(short["LOSS"], adversary=short["ADVERSARY"]),
    optimizer=short["OPTIMIZER"],
    train=dict(steps=short["STEPS"], init="runs/vae_short", pictures=5000),
  )
