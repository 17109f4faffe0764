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
# # From a prompt to a clip
#
# Runs a model that `pyramid-train` made or `pyramid-convert` wrote, shows the
# clip, and what the pyramid does on the way: the latents at the end of every
# stage.

# %%
import os
import pathlib
import subprocess
import sys

repository = ""  # address of the project, if this runs in Colab
if "google.colab" in sys.modules and repository:
  subprocess.run(
    ["git", "clone", "--depth=1", repository, "project"], check=True
  )
  os.chdir("project")
  pip = [sys.executable, "-m", "pip", "install", "-q", "-e"]
  subprocess.run([*pip, ".[data,text,train,notebooks]"], check=True)
elif (
  not pathlib.Path("configs").exists() and pathlib.Path("../configs").exists()
):
  os.chdir("..")

# %% tags=["parameters"]
# a run, such as that of launch/quickstart.sh, or a converted transformer
workdir = "quickstart/train"
prompt = "a large red circle moves left on a blue background"
low_memory = False  # True: text encoder, transformer and VAE take turns
changes = {}  # of the checkpoint's settings: height, frames, guidance, ...
out = pathlib.Path("generated")

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image
from tqdm.auto import tqdm

from pyramid_jax.generate import export
from pyramid_jax.generate.pipeline import Pipeline

pipeline = Pipeline.load(workdir, low_memory=low_memory)
options = pipeline.options(**changes)
plan = pipeline.plan(options)
print(f"{options.frames} frames of {options.height} x {options.width}")

# %% [markdown]
# ## The pyramid at work
#
# A unit is one latent frame: the first is one video frame, the others are
# eight. Each goes from noise to a clean latent through the stages, coarse to
# fine; the units before it are its history. The pictures show three channels
# of the latents as colours.

# %%
bar = tqdm(
  total=sum(options.steps) + (plan.units - 1) * sum(options.video_steps),
  desc="transformer",
)
units = list(pipeline.latents([prompt], options, progress=bar.update))
bar.close()


def colours(latent):
  """Three channels of a latent [h, w, C] as a picture."""
  x = np.asarray(latent, np.float32)[..., :3]
  x = (x - x.min()) / max(np.ptp(x), 1e-6)
  return np.pad(x, [(0, 0), (0, 0), (0, 3 - x.shape[-1])])


shown = units[:4]
fig, axes = plt.subplots(
  len(shown),
  len(shown[0]),
  figsize=(2.4 * len(shown[0]), 2.4 * len(shown)),
  squeeze=False,
)
for row, ends in zip(axes, shown, strict=True):
  for axis, end in zip(row, ends, strict=True):
    axis.imshow(colours(end[0, -1]), interpolation="nearest")
    axis.set_title("{} x {}".format(*end.shape[2:4]), fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## The clip
#
# `pipeline.stream` yields frames as soon as a unit is done; here they are
# collected.

# %%
frames = np.concatenate(list(pipeline.stream([prompt], **changes)), 1)[0]
out.mkdir(parents=True, exist_ok=True)
export.write_gif(out / "clip.gif", frames, options.fps)
export.write_clip(out / "clip.mp4", frames, options.fps)
print(pipeline.phases)
Image(filename=str(out / "clip.gif"))

# %% [markdown]
# ## From an image
#
# The first frame of the clip, given back: the model goes on from it.

# %%
given = frames[None, :1]
again = pipeline([prompt], given=given, seed=1, **changes)[0]
export.write_gif(out / "again.gif", again, options.fps)
Image(filename=str(out / "again.gif"))
