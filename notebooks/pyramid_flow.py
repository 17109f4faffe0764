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
# # The mathematics of the pyramid
#
# Stage windows, the jump between resolutions with and without its noise, why
# both ends of a stage share their noise, and how many tokens a video costs.
# Everything runs on a CPU within a minute.

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

# %%
import matplotlib.pyplot as plt
import numpy as np

from pyramid_jax.flow import history, renoise, resample, schedule

plan = schedule.make_schedule()

# %% [markdown]
# ## Stage windows
#
# Stage 0 is the coarsest. Within a stage the noise falls from `start_sigma` to
# `end_sigma`; the next one starts noisier than this one ended, because the jump
# to twice the resolution adds noise (paper, Eq. 15 and 25).

# %%
print("stage  noise at start  at end  timesteps")
for k in range(plan.stages):
  print(
    f"{k:>5}  {plan.start_sigma[k]:>14.4f}  {plan.end_sigma[k]:>6.4f}  "
    f"{plan.timesteps[k, 0]:.0f} .. {plan.timesteps[k, -1]:.1f}"
  )
fig, axis = plt.subplots(figsize=(6, 3))
for k in range(plan.stages):
  sigma = (
    plan.ratios * plan.start_sigma[k] + (1 - plan.ratios) * plan.end_sigma[k]
  )
  axis.plot(1000 - plan.timesteps[k], sigma, label=f"stage {k}")
axis.set_xlabel("1000 - timestep")
axis.set_ylabel("noise")
axis.legend()
plt.show()

# %% [markdown]
# ## The jump
#
# Nearest upsampling makes the four values of a block equal: their noise is
# perfectly correlated. Adding noise that is negatively correlated within a
# block gives the independent noise from which the next stage starts. With
# independent noise of the same strength, correlations stay.


# %%
def covariance(x):
  """Of the four values of a 2 x 2 block, [4, 4]."""
  blocks = x.reshape(-1, 2, x.shape[2] // 2, 2).transpose(0, 2, 1, 3)
  return np.cov(blocks.reshape(-1, 4).T)


rng = np.random.default_rng(0)
stage, size = 1, 256
end = 1 - plan.end_sigma[stage - 1]  # share of signal where stage 0 ends
noise = plan.end_sigma[stage - 1] * rng.standard_normal((1, 1, size, size, 1))
up = np.asarray(resample.up(noise))
eps = rng.standard_normal(up.shape).astype(np.float32)
rescale, weight = renoise.rescale_and_weight(
  plan.original_start[stage], plan.gamma
)
found = {
  "upsampled only": up,
  "independent noise": rescale * up + weight * eps,
  "corrective noise": rescale * up
  + weight * np.asarray(renoise.block_noise(eps, plan.gamma)),
}
target = plan.start_sigma[stage] ** 2
fig, axes = plt.subplots(1, len(found) + 1, figsize=(11, 3))
pictures = {
  name: covariance(x[0, 0, :, :, 0][None]) for name, x in found.items()
}
pictures["what stage 1 starts from"] = target * np.eye(4)
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
  axis.imshow(picture, vmin=-target, vmax=target, cmap="RdBu")
  axis.set_title(name, fontsize=9)
  axis.set_xticks([])
  axis.set_yticks([])
plt.show()
error = np.abs(pictures["corrective noise"] - target * np.eye(4)).max()
print(f"corrective noise is off by {error:.4f} of {target:.4f}")
jump_error = error / target

# %% [markdown]
# ## One noise for both ends
#
# A stage leads from `start = s0 n + (1 - s0) coarse` to
# `end = s1 n' + (1 - s1) fine`. With the same noise, n = n', paths cross less
# and the flow is straighter (paper, Sec. 3.2). In two dimensions, with a few
# points as data, the best velocity E[start - end | x] can be written down, so
# nothing has to be trained.

# %%
angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
fine = 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
coarse = np.repeat((fine[0::2] + fine[1::2]) / 2, 2, axis=0)  # pairs look alike
s0, s1 = 0.6, 0.15


def velocity(x, ratio, coupled):
  """E[start - end | x] over data and noise, at a share `ratio` of the start."""
  mean = ratio * (1 - s0) * coarse + (1 - ratio) * (1 - s1) * fine
  parts = np.array([ratio * s0, (1 - ratio) * s1])
  variance = parts.sum() ** 2 if coupled else (parts**2).sum()
  away = x[:, None] - mean  # [points, data, 2]
  score = -(away**2).sum(-1) / (2 * variance)
  weight = np.exp(score - score.max(1, keepdims=True))
  weight /= weight.sum(1, keepdims=True)
  if coupled:
    noise = (s0 - s1) * away / np.sqrt(variance)
  else:  # what each of the two noises is expected to be
    noise = (s0 * parts[0] - s1 * parts[1]) * away / variance
  each = noise + (1 - s0) * coarse - (1 - s1) * fine
  return (weight[..., None] * each).sum(1)


def paths(start, steps, coupled):
  """Euler steps from the start to the end of the stage, [steps + 1, N, 2]."""
  x, found = start, [start]
  for i in range(steps):
    x = x - velocity(x, 1 - i / steps, coupled) / steps
    found.append(x)
  return np.stack(found)


n = rng.standard_normal((400, 2))
start = s0 * n + (1 - s0) * coarse[rng.integers(len(coarse), size=400)]
fig, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
curved = {}
for axis, coupled in zip(axes, (True, False), strict=True):
  many, one = paths(start, 200, coupled), paths(start, 1, coupled)
  chord = many[-1] - many[0]
  speed = np.diff(many, axis=0) * 200
  curved[coupled] = ((speed - chord) ** 2).sum(-1).mean() / (chord**2).sum(
    -1
  ).mean()
  off = np.sqrt(((one[-1] - many[-1]) ** 2).sum(-1).mean())
  axis.plot(*many[:, :60].transpose(2, 0, 1), color="C0", lw=0.6)
  axis.scatter(*((1 - s1) * fine.T), color="C3", s=30, zorder=3)
  name = "one noise" if coupled else "two noises"
  axis.set_title(
    f"{name}: curvature {curved[coupled]:.3f},\none step is off by {off:.2f}",
    fontsize=9,
  )
plt.show()

# %% [markdown]
# ## Tokens
#
# Full resolution for the newest frames only: a ten-second clip at 768p takes
# 15,360 tokens in its last and largest step instead of 119,040.

# %%
full, units = 3840, 31
fig, axis = plt.subplots(figsize=(6, 3))
for k in range(plan.stages):
  counts = [
    history.token_count(history.clips(u, k, 1), full, plan.stages)
    for u in range(units)
  ]
  axis.plot(counts, label=f"stage {k}")
axis.plot(
  [full * (u + 1) for u in range(units)], "k:", label="all at full size"
)
axis.set_yscale("log")
axis.set_xlabel("unit")
axis.set_ylabel("tokens")
axis.legend(fontsize=8)
plt.show()
largest = counts[-1]
print(f"last unit, last stage: {largest:,} of {full * units:,} tokens")
