# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first clip
#
# From nothing to generated clips: a dataset of moving shapes, a causal VAE, a
# diffusion transformer with the pyramid flow loss, samples. Ten minutes on two
# CPU cores; faster with a GPU or TPU (in Colab: Runtime > Change runtime type).
#
# In Colab, clone the repository and install it first:
#
# ```
# !git clone --depth 1 <address of the repository> pyramid_jax
# %cd pyramid_jax
# %pip install -e .[data,text,train,notebooks]
# ```

# %%
import json
import os
import pathlib

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

from pyramid_jax.data import shapes
from pyramid_jax.flow import history, resample, schedule

if not pathlib.Path("configs").exists():
  os.chdir("..")  # to the project, which holds configs/

# %% tags=["parameters"]
config = "configs/tiny.py"
out = pathlib.Path("quickstart")
dataset = ""  # options of pyramid-shapes, such as --clips=100

# %% [markdown]
# ## Clips with captions
#
# Every clip is drawn from its number; what the caption says is true.


# %%
def show(frames, titles):
  """Frames in a row."""
  _, axes = plt.subplots(1, len(frames), figsize=(2 * len(frames), 2.3))
  for axis, frame, title in zip(axes, frames, titles, strict=True):
    axis.imshow(np.clip(frame, 0, 255).astype(np.uint8))
    axis.set_title(title, fontsize=9)
    axis.axis("off")
  plt.show()


clip = shapes.render(0)
print(clip.caption)
show(clip.video[::4], [f"frame {i}" for i in range(0, 17, 4)])

# %% [markdown]
# ## The pyramid
#
# The flow from noise to a frame goes through resolutions: stage 0 runs at a
# quarter of the size, stage 1 at half, stage 2 at full size. Each is a straight
# path from a noisier, upsampled coarse picture to a cleaner, sharper one
# (paper, Eq. 9 and 10). Here it is on pixels instead of latents.

# %%
plan = schedule.make_schedule()
picture = clip.video[:1].astype(np.float32) / 127.5 - 1
levels = resample.pyramid(picture, plan.stages)
coarse = resample.coarse_pyramid(levels)
noise = np.random.default_rng(0).standard_normal(picture.shape)
noises = resample.noise_pyramid(noise.astype(np.float32), plan.stages)
for k in range(plan.stages):
  start, end = plan.start_sigma[k], plan.end_sigma[k]
  first = start * noises[k] + (1 - start) * coarse[k]
  last = end * noises[k] + (1 - end) * levels[k]
  middle = (first + last) / 2
  show(
    [127.5 * (x[0] + 1) for x in (first, middle, last)],
    [f"stage {k}: noise {s:.2f}" for s in (start, (start + end) / 2, end)],
  )

# %% [markdown]
# A clip is generated one latent frame after the other, and what is already
# there is seen at lower resolution the older it is. That is why long clips stay
# cheap. For the 16th latent frame of a clip of 384 x 640 pixels, a row of the
# transformer holds this many tokens, against 15,360 with a whole history:

# %%
for k in range(plan.stages):
  seen = history.clips(15, k, frames_per_unit=1)
  tokens = history.token_count(seen, 24 * 40, plan.stages)
  print(f"stage {k}: {tokens} tokens")

# %% [markdown]
# ## Training
#
# The commands are those of `launch/quickstart.sh`. Each continues where it
# stopped, so a cell can be run again.

# %%
# !pyramid-shapes --out={out}/shapes --text={out}/text {dataset}

# %%
# !pyramid-train --config={config}:vae --workdir={out}/vae \
#   --data={out}/shapes

# %%
# !pyramid-encode --config={config} --config.text.path={out}/text \
#   --videos={out}/shapes --vae={out}/vae --out={out}/latents

# %%
# !pyramid-train --config={config} --config.text.path={out}/text \
#   --workdir={out}/train --data={out}/latents

# %% [markdown]
# The loss of each stage, from `metrics.jsonl`:

# %%
lines = (out / "train" / "metrics.jsonl").read_text().splitlines()
metrics = [json.loads(line) for line in lines]
for key in sorted(k for k in metrics[0] if k.startswith("loss")):
  plt.plot([m["step"] for m in metrics], [m[key] for m in metrics], label=key)
plt.yscale("log")
plt.xlabel("step")
plt.legend()
plt.show()

# %% [markdown]
# ## Clips of captions it has not seen

# %%
# !pyramid-generate --workdir={out}/train --heldout={out}/shapes --clips=6 \
#   --out={out}/samples --sheet={out}/samples/contact_sheet.png

# %%
plt.figure(figsize=(12, 9))
plt.imshow(plt.imread(out / "samples" / "contact_sheet.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# And your own prompt:

# %%
# !pyramid-generate --workdir={out}/train --out={out}/mine.gif --seed=1 \
#   --prompt="a large red square moves slowly left on a black background"

# %%
Image(filename=out / "mine.gif", width=256)
