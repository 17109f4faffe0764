"""The VAE's losses and the PSNR on cases worked out by hand."""

import jax.numpy as jnp
import numpy as np

from pyramid_jax.config import VAELossConfig
from pyramid_jax.models import critic
from pyramid_jax.models.vae import Posterior


def test_the_loss_is_the_weighted_sum_of_its_terms():
  x = jnp.zeros((2, 3, 4, 4, 3))
  mean = jnp.ones((2, 1, 2, 2, 5))
  q = Posterior(mean, jnp.zeros_like(mean))  # KL 1/2 a value, 4 a channel
  loss, terms = critic.vae_loss(x + 0.5, x, q, VAELossConfig(2.0, 0.1))
  np.testing.assert_allclose(terms["pixel"], 0.25)
  np.testing.assert_allclose(terms["kl"], 2.0)
  np.testing.assert_allclose(loss, 2 * 0.25 + 0.1 * 2.0, rtol=1e-6)


def test_psnr_is_per_clip_and_of_clipped_pixels():
  x = jnp.ones((2, 1, 2, 2, 3))
  decoded = jnp.stack([x[0] - 0.2, x[1] * 7])
  # range 2, error 0.2: 20 dB; beyond white is white
  np.testing.assert_allclose(critic.psnr(decoded, x), [20, np.inf], rtol=1e-5)
