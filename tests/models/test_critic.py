"""The VAE's losses: cases worked out by hand, released numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.config import AdversaryConfig, VAELossConfig
from pyramid_jax.convert.models import DISCRIMINATOR
from pyramid_jax.models import critic
from pyramid_jax.models.pure import pure
from pyramid_jax.models.vae import VAE, Posterior
from tests.convert.test_critic import PARTS
from tests.models.test_vae import TINY
from tests.reference import load, max_error


def test_the_loss_is_the_weighted_sum_of_its_terms():
  x = jnp.zeros((2, 3, 4, 4, 3))
  mean = jnp.ones((2, 1, 2, 2, 5))
  q = Posterior(mean, jnp.zeros_like(mean))  # KL 1/2 a value, 4 a channel
  loss, terms = critic.vae_loss(x + 0.5, x, q, VAELossConfig(2.0, 0.1))
  np.testing.assert_allclose(terms["pixel"], 0.25)
  np.testing.assert_allclose(terms["kl"], 2.0)
  np.testing.assert_allclose(loss, 2 * 0.25 + 0.1 * 2.0, rtol=1e-6)
  config = VAELossConfig(2.0, 0.1, log_variance=0.5)
  loss, _ = critic.vae_loss(x + 0.5, x, q, config)
  expected = 2 * 0.25 * np.exp(-0.5) + 0.5 + 0.1 * 2.0
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def network(name):
  """A network of the reference file, with its weights in it."""
  model, prefix = PARTS[name]
  torch = load("vae_loss").under(prefix)
  config = model.read_config(torch)
  params = model.from_torch(config, torch)
  return functools.partial(model.make(config).apply, params)


def test_networks_give_the_released_numbers():
  file = load("vae_loss")
  x, y = (np.moveaxis(file[f"in/{k}"], 1, -1) for k in ("x", "y"))
  few = x[:, : y.shape[1]]
  distance = jax.jit(network("lpips"))(few[0], y[0])
  assert max_error(distance, file["out/lpips"].ravel()) < 1e-5
  for name, key, given in (("image", "disc2d", few), ("clip", "disc3d", x)):
    logits = np.moveaxis(jax.jit(network(name))(given), -1, 1)
    assert max_error(logits, file[f"out/{key}"]) < 1e-5, name
  for kind in ("hinge", "vanilla"):
    loss = critic.discriminator_loss(
      file["in/logits_real"], file["in/logits_fake"], kind
    )
    np.testing.assert_allclose(loss, file[f"out/{kind}"], rtol=1e-6)


def test_equal_and_empty_images_have_no_distance_and_no_wild_gradient():
  distance, black = network("lpips"), jnp.zeros((2, 16, 16, 3))
  value, slope = jax.value_and_grad(lambda x: distance(x, black).sum())(black)
  assert value == 0 and not np.asarray(slope).any()


def test_a_discriminator_weighs_as_much_as_the_rest_at_the_last_layer():
  factor = 0.7
  model = pure(lambda rngs: VAE(TINY, rngs=rngs))
  params = model.init(0)
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  z, x, judge = draw(1, 2, 4, 4, 2), draw(1, 3, 8, 8, 3), draw(1, 3, 8, 8, 3)
  q = Posterior(z, jnp.zeros_like(z))
  config = VAELossConfig(1.0, 0.1, adversary=AdversaryConfig(weight=0.5))

  def loss(params):
    pixels, last_layer = critic.decode(model, params, z)
    judges = critic.Judges(
      logits=lambda pixels: jnp.tanh(pixels * judge),
      factor=factor,
      last_layer=last_layer,
    )
    return critic.vae_loss(pixels, x, q, config, judges)

  (value, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )

  def part(which):
    """A term alone, through the whole decoder."""

    def value(params):
      pixels = model.apply(params, z, method="decode")
      return {
        "likelihood": jnp.square(pixels - x).mean(),
        "adversarial": -jnp.tanh(pixels * judge).mean(),
      }[which]

    return jax.jit(jax.value_and_grad(value))(params)

  (likelihood, slopes), (adversarial, slopes_adversarial) = map(
    part, ("likelihood", "adversarial")
  )
  norm = lambda g: np.linalg.norm(g["decoder"]["out"]["conv"]["kernel"])
  weight = 0.5 * norm(slopes) / (norm(slopes_adversarial) + 1e-4)
  np.testing.assert_allclose(terms["adversarial_weight"], weight, rtol=1e-4)
  np.testing.assert_allclose(terms["adversarial"], adversarial, rtol=1e-4)
  expected = likelihood + factor * weight * adversarial + 0.1 * terms["kl"]
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  expected = jax.tree.map(
    lambda a, b: a + factor * weight * b, slopes, slopes_adversarial
  )
  # sums of float32 in another order
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
    grads,
    expected,
  )


def test_discriminators_judge_patches_of_frames_or_of_clips():
  for kind, shape in (("image", (2 * 17, 2, 3, 1)), ("clip", (2, 3, 2, 3, 1))):
    model = DISCRIMINATOR.make(AdversaryConfig(kind, width=4))
    clip = jax.ShapeDtypeStruct((2, 17, 64, 80, 3), np.float32)
    logits = jax.eval_shape(model.apply, model.shapes, clip)
    assert logits.shape == shape, kind
