"""What keeps VAE training with a discriminator stable: nothing is compiled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pyramid_jax.config import (
  AdversaryConfig,
  Config,
  ConfigError,
  LPIPSConfig,
  Phase,
  TrainConfig,
  VAEConfig,
  VAELossConfig,
  VideoDataConfig,
)
from pyramid_jax.models import discriminator
from pyramid_jax.models.vae import GroupNorm
from pyramid_jax.train import state as state_lib
from pyramid_jax.train import vae
from pyramid_jax.train.optimizer import make_optimizer

LOSS = VAELossConfig(
  perceptual=1.0, adversary=AdversaryConfig("image", width=4, layers=1)
)
CONFIG = Config(
  kind="vae",
  vae=VAEConfig(
    channels=(4,), encoder_blocks=1, decoder_blocks=1, latent_channels=4,
    groups=2, down_space=(False,), down_time=(False,),
  ),
  videos=VideoDataConfig(
    phases=(Phase(10, 2, 9, 16, 16, image_ratio=0.5),)
  ),
  vae_loss=LOSS,
  train=TrainConfig(steps=10),
  optimizer=dataclasses.replace(Config().optimizer, warmup=1),
)  # fmt: skip


def program_with(**adversary):
  changed = dataclasses.replace(LOSS.adversary, **adversary)
  loss = dataclasses.replace(LOSS, adversary=changed)
  config = dataclasses.replace(CONFIG, vae_loss=loss)
  return vae.make_program(config, LPIPSConfig((4, 4, 4, 4, 4)))


def outputs(program, shape):
  """Shapes of what a step gives on clips of a shape."""
  batch = {
    "video": jax.ShapeDtypeStruct(shape, jnp.float32),
    "index": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  frozen = {name: model.shapes for name, model in program.frozen.items()}
  return jax.eval_shape(program.step, program.abstract(), batch, key, **frozen)


def test_the_adversarial_factor_rises_from_the_start_on():
  config = AdversaryConfig(factor=0.5, start=7, warmup=4)
  factors = [
    float(vae.adversarial_factor(config, jnp.asarray(n - 7)))
    for n in (0, 6, 7, 8, 9, 10, 11, 100)
  ]
  assert factors == [0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
  at_once = dataclasses.replace(config, warmup=0)
  factors = [
    float(vae.adversarial_factor(at_once, jnp.asarray(n))) for n in (-1, 0, 5)
  ]
  assert factors == [0, 0.5, 0.5]


def test_losses_and_state_are_float32_where_the_networks_compute_in_bfloat16():
  state, metrics = outputs(program_with(dtype="bfloat16"), (2, 9, 16, 16, 3))
  assert metrics.keys() == {
    "loss", "nll", "pixel", "perceptual", "kl", "adversarial",
    "adversarial_weight", "adversarial_factor", "discriminator", "grad_norm",
    "adversary_grad_norm",
  }  # fmt: skip
  for name, value in metrics.items():
    assert (value.shape, value.dtype) == ((), jnp.float32), name
  kept = state.params, state.ema, state.opt, state.adversary
  floats = [x for x in jax.tree.leaves(kept) if x.dtype != jnp.int32]
  assert {x.dtype for x in floats} == {jnp.dtype("float32")}


def test_norms_are_right_far_from_zero_in_bfloat16():
  rng = np.random.default_rng(0)
  x = rng.normal(100, 3, (1, 2, 32, 32, 4)).astype(jnp.bfloat16)
  group = GroupNorm(4, 4, rngs=vae.vae.nnx.Rngs(0))(jnp.asarray(x))
  instance = discriminator._instance_norm(jnp.asarray(x[0]))
  y = x.astype(np.float64)
  y -= y.mean((2, 3), keepdims=True)
  y /= y.std((2, 3), keepdims=True)
  for found, expected in ((group, y), (instance, y[0])):
    # one rounding of the result to bfloat16; a mean in bfloat16 is off by 0.25
    np.testing.assert_allclose(
      np.asarray(found, np.float64), expected, rtol=2**-7, atol=1e-2
    )


def test_a_discriminator_of_clips_sits_images_out():
  images, clips = (18, 1, 16, 16, 3), (2, 9, 16, 16, 3)
  for kind, judged in (("image", True), ("clip", False)):
    program = program_with(kind=kind)
    assert vae.judges_clips(program.adversary.model, images) == judged
    assert vae.judges_clips(program.adversary.model, clips)
  state, metrics = outputs(program, images)
  assert not {"adversarial", "discriminator", "adversary_grad_norm"} & set(
    metrics
  )
  assert state.adversary.keys() == {"params", "opt"}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"start": 10}, "start 10 is not before the run's end, step 10; lower it"),
    ({"layers": 4}, "clips of 9 x 16 x 16, 1 x 16 x 16 are too small for a di"),
  ],
)
def test_a_discriminator_that_would_never_learn_is_told(change, message):
  with pytest.raises(ConfigError, match=message):
    program_with(**change)


def test_images_that_microbatches_do_not_divide_are_told():
  phase = dataclasses.replace(CONFIG.videos.phases[0], images=3)
  config = dataclasses.replace(
    CONFIG,
    videos=VideoDataConfig(phases=(phase,)),
    train=dataclasses.replace(CONFIG.train, microbatches=2),
  )
  with pytest.raises(ConfigError, match="batch of images 3 is not a multiple"):
    vae.make_program(config, LPIPSConfig((4,) * 5))


def step(grads, adversary_grads, loss=1.0, on=True):
  """What an update changes in two networks of two weights, by plain SGD."""
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
  zeros = {"w": jnp.zeros(2)}
  count = jnp.asarray(0, jnp.int32)
  other = {"params": zeros, "opt": tx.init(zeros)}
  state = state_lib.TrainState(
    count, zeros, zeros, tx.init(zeros), count, count - 1, other
  )
  tree = lambda g: {"w": jnp.asarray(g, jnp.float32)}
  learned = state_lib.Learned(tx, tree(adversary_grads), jnp.asarray(on))
  new, norms = state_lib.update(
    state, tree(grads), jnp.asarray(loss), tx, 0.5, learned
  )
  return new, norms, new.params["w"], new.adversary["params"]["w"]


def test_each_network_has_its_own_gradient_norm_and_clipping():
  _, norms, params, other = step([0.3, 0.4], [300.0, 400.0])
  np.testing.assert_allclose(params, [-0.3, -0.4], rtol=1e-6)  # below the clip
  np.testing.assert_allclose(other, [-0.6, -0.8], rtol=1e-6)
  np.testing.assert_allclose(norms["grad_norm"], 0.5, rtol=1e-6)
  np.testing.assert_allclose(norms["adversary_grad_norm"], 500, rtol=1e-6)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_the_rate_of_a_discriminator_is_that_of_the_runs_step(method):
  """Whatever its optimizer has counted: it starts late and sits steps out."""
  config = dataclasses.replace(CONFIG.optimizer, method=method, warmup=0)
  params = {"a": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}}
  grads = jax.tree.map(jnp.ones_like, params)
  names = {"a": {"kernel": ("channels_in", "channels"), "scale": ("channels",)}}
  make = lambda *phases: make_optimizer(config, names, *phases)

  def moved(tx, counted):
    """By how much a step 7 moves it, after so many of its own."""
    state = state_lib.TrainState(
      jnp.asarray(7, jnp.int32), params, params, tx.init(params),
      jnp.asarray(0, jnp.int32), jnp.asarray(-1, jnp.int32),
      {"params": params, "opt": with_count(tx.init(params), counted)},
    )  # fmt: skip
    learned = state_lib.Learned(tx, grads, jnp.asarray(True))
    new, _ = state_lib.update(state, grads, jnp.asarray(1.0), tx, 0.5, learned)
    counts = [x for x in jax.tree.leaves(new.adversary["opt"]) if x.ndim == 0]
    assert {int(n) for n in counts} == {counted + 1}  # its own, as saved
    return jax.tree.map(
      lambda a, b: np.asarray(a - b), new.adversary["params"], params
    )

  late, whole = make((5, 1.0), (5, 0.25)), make((10, 0.25))
  for counted in (0, 3):
    jax.tree.map(
      np.testing.assert_array_equal, moved(late, counted), moved(whole, counted)
    )


def with_count(opt, count):
  """An optimizer's state that has counted so many steps."""
  return jax.tree.map(
    lambda x: jnp.full_like(x, count) if x.ndim == 0 else x, opt
  )


@pytest.mark.parametrize(
  "grads, adversary_grads, loss",
  [
    ([np.nan, 0], [1, 1], 1.0), ([1, 1], [np.inf, 0], 1.0),
    ([1, 1], [1, 1], np.nan),
  ],
)  # fmt: skip
def test_what_is_not_finite_changes_neither_network(
  grads, adversary_grads, loss
):
  state, _, params, other = step(grads, adversary_grads, loss)
  assert not params.any() and not other.any() and not state.ema["w"].any()
  assert (int(state.step), int(state.skipped)) == (1, 1)
