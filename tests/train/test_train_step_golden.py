"""One whole training loss of the released code: drop, noise, model, loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from pyramid_jax.config import FlowConfig
from pyramid_jax.convert.models import DIT
from pyramid_jax.data import rows as rows_lib
from pyramid_jax.data.latents import NullPrompt, Statistics
from pyramid_jax.flow import objective
from pyramid_jax.flow.schedule import make_schedule
from pyramid_jax.models.dit import make_dit
from pyramid_jax.train import dit
from tests import reference

# of the released SD3-type model: image frames, then later ones
STATISTICS = Statistics(0.1490, 1 / 1.8415, -0.2343, 1 / 3.0986)


def noise_level(noise_CTHW, levels):
  """The released noise pyramid: bilinear halving, times 2, per level."""
  for _ in range(levels):
    noise_CTHW = 2 * noise_CTHW.reshape(
      *noise_CTHW.shape[:2], noise_CTHW.shape[2] // 2, 2, -1, 2
    ).mean((3, 5))
  return noise_CTHW


def tokens(x_CTHW):
  return rearrange(x_CTHW, "c t (h p) (w q) -> (t h w) (p q c)", p=2, q=2)


@pytest.mark.parametrize("name", reference.names("train_step_mmdit"))
def test_training_loss_and_gradients_of_the_released_code(name):
  ref = reference.load(name)
  config = DIT.read_config(ref.config["model"])
  model = make_dit(config)
  params = DIT.from_torch(config, ref.under("param/"))
  draws = [ref[f"in/draw{i:02d}/{kind}"]
           for i, kind, _ in ref.config["draw_order"]]  # fmt: skip
  dropped, noise, *rest = draws
  flow = FlowConfig(max_corruption=1.0)  # the draws are scaled below
  spec = rows_lib.TokenSpec(flow, table_size=config.table_size)
  ratios = ref.config["sample_ratios"]
  stages = np.repeat(np.arange(len(ratios)), ratios)
  units = ref.config["case"]["units"]

  parts, noises, u, corruption = [], [], [], []
  for column, stage in enumerate(stages):
    mask = ref["in/text/mask"][column].astype(bool)
    prompt = NullPrompt(ref["in/text/embeds"][column][mask],
                        ref["in/text/pooled"][column])  # fmt: skip
    if dropped[column] <= 0.1:
      mask = ref["in/null/mask"].astype(bool)
      prompt = NullPrompt(ref["in/null/embeds"][mask], ref["in/null/pooled"])
    unit = units[stage] - 1
    latent = rearrange(ref["in/video"][column], "c t h w -> t h w c")
    latent = STATISTICS.normalise(latent)
    part = rows_lib.segment(latent, unit, int(stage), prompt, spec)
    u.append(rest.pop(0)[0])
    corruption.append(rest.pop(0)[0] / 3)
    level = noise_level(noise[column], len(ratios) - 1 - stage)
    target = tokens(level[:, unit : unit + 1])
    # drawn newest first; a row has the oldest first
    history = []
    while sum(map(len, history)) + len(target) < len(part.clean):
      history.insert(0, tokens(rest.pop(0)[0]))
    parts.append(part)
    noises.append(np.concatenate([*history, target]))
  assert not rest

  L, M = sum(len(p.clean) for p in parts), sum(len(p.text) for p in parts)
  row = rows_lib.pack_row(parts, L, M, len(parts))
  batch = {k: jnp.asarray(v)[None] for k, v in row.items()}
  drawn = objective.Draws(
    *(jnp.asarray(x, jnp.float32)[None]
      for x in (np.concatenate(noises), u, corruption))
  )  # fmt: skip
  sums, grads = jax.jit(
    lambda params: dit.gradient(
      model, make_schedule(), params, batch, drawn, jnp.float32(len(parts))
    )
  )(params)
  # the README: DiT 1e-4 of max, gradients 1e-3; reached ten times better
  np.testing.assert_allclose(sums.mean(), ref["out/loss"], rtol=1e-5)
  grads = DIT.to_torch(config, jax.device_get(grads))
  desired = ref.under("grad/")
  scale = max(np.abs(g).max() for g in desired.values())
  for key, grad in desired.items():
    error = np.abs(grads[key] - grad).max()
    assert error < 1e-4 * max(np.abs(grad).max(), 0.01 * scale), key


@pytest.mark.parametrize("stage", range(3))
def test_the_reference_noise_level_is_unit_normal(stage):
  noise = np.random.default_rng(0).normal(size=(4, 8, 64, 64))
  level = noise_level(noise, stage)
  # 4 x 8 x 16 x 16 values at least: 1% standard error
  np.testing.assert_allclose(level.std(), 1, atol=0.05)
