"""How good a reconstruction is: the VAE's losses and the PSNR.

Legend: B clips, T frames, H W space, C colours; pixels in [-1, 1].
"""

import jax
import jax.numpy as jnp

from pyramid_jax.config import VAELossConfig
from pyramid_jax.models.vae import Posterior


def pixel_loss(decoded_BTHWC: jax.Array, x_BTHWC: jax.Array) -> jax.Array:
  """Mean squared error over everything."""
  return jnp.square(decoded_BTHWC - x_BTHWC).mean()


def kl_loss(posterior: Posterior) -> jax.Array:
  """KL divergence, summed over T, H, W, then the mean over B and channels."""
  return posterior.kl().mean()


def vae_loss(
  decoded_BTHWC: jax.Array,
  x_BTHWC: jax.Array,
  posterior: Posterior,
  config: VAELossConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted sum, and its terms by name."""
  terms = {
    "pixel": pixel_loss(decoded_BTHWC, x_BTHWC),
    "kl": kl_loss(posterior),
  }
  return config.pixel * terms["pixel"] + config.kl * terms["kl"], terms


def psnr(decoded_BTHWC: jax.Array, x_BTHWC: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio of each clip in dB, of pixels that are shown.

  What was decoded is clipped to [-1, 1] first; a perfect clip gives infinity.
  """
  error = jnp.square(jnp.clip(decoded_BTHWC, -1.0, 1.0) - x_BTHWC)
  return 10.0 * jnp.log10(4.0 / error.mean((1, 2, 3, 4)))
