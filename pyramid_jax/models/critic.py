"""How good a reconstruction is: the VAE's losses.

The loss of the released code: pixels and LPIPS under one log-variance, KL, and
a discriminator whose part weighs as much as the rest where both meet, at the
decoder's last layer (Eq. 7 of arXiv:2012.09841).

Legend: B clips, T frames, H W space, C colours; pixels in [-1, 1].
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from pyramid_jax.config import VAELossConfig
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.models.vae import Posterior

Terms = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Judges:
  """The networks in a loss, as functions of pixels.

  Attributes:
    distance: LPIPS of two stacks of images, [N]; None: no such term.
    logits: the discriminator's, of clips; None: no such term.
    factor: by which the discriminator counts; 0 before it starts.
    last_layer: takes a gradient of the pixels to that of the decoder's last
      kernel (a `jax.vjp`); needed with `logits`.
  """

  distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  logits: Callable[[jax.Array], jax.Array] | None = None
  factor: jax.Array | float = 0.0
  last_layer: Callable[[jax.Array], jax.Array] | None = None


def pixel_loss(decoded_BTHWC: jax.Array, x_BTHWC: jax.Array) -> jax.Array:
  """Mean squared error over everything."""
  return jnp.square(decoded_BTHWC - x_BTHWC).mean()


def kl_loss(posterior: Posterior) -> jax.Array:
  """KL divergence, summed over T, H, W, then the mean over B and channels."""
  return posterior.kl().mean()


def decode(
  model: Pure, params: Params, z_BTHWZ: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
  """Pixels of latents, and what `Judges.last_layer` has to be."""
  features = model.apply(params, z_BTHWZ, method="decode_features")
  still, still_features = jax.lax.stop_gradient((params, features))

  def again(kernel):
    conv = {**still["decoder"]["out"]["conv"], "kernel": kernel}
    out = {**still["decoder"]["out"], "conv": conv}
    with_kernel = {**still, "decoder": {**still["decoder"], "out": out}}
    return model.apply(with_kernel, still_features, method="pixels")

  _, pull = jax.vjp(again, still["decoder"]["out"]["conv"]["kernel"])
  pixels = model.apply(params, features, method="pixels")
  return pixels, lambda slope: pull(slope)[0]


def nll_loss(
  decoded_BTHWC: jax.Array,
  log_variance: jax.Array | float,
  x_BTHWC: jax.Array,
  config: VAELossConfig,
  distance: Callable | None = None,
) -> tuple[jax.Array, Terms]:
  """Negative log-likelihood of pixels, with LPIPS beside the squared error."""
  terms = {"pixel": pixel_loss(decoded_BTHWC, x_BTHWC)}
  value = config.pixel * terms["pixel"]
  if distance is not None:
    frames = (
      rearrange(a, "b t h w c -> (b t) h w c") for a in (x_BTHWC, decoded_BTHWC)
    )
    terms["perceptual"] = distance(*frames).mean()
    value = value + config.perceptual * terms["perceptual"]
  return value * jnp.exp(-log_variance) + log_variance, terms


def vae_loss(
  decoded_BTHWC: jax.Array,
  x_BTHWC: jax.Array,
  posterior: Posterior,
  config: VAELossConfig,
  judges: Judges = Judges(),
  log_variance: jax.Array | float | None = None,
) -> tuple[jax.Array, Terms]:
  """The VAE's loss, and its terms by name.

  Terms: nll (negative log-likelihood), pixel, kl; with LPIPS perceptual; with a
  discriminator adversarial and adversarial_weight, which has no gradient.
  `log_variance` is the config's unless it is to be differentiated.
  """
  nll = functools.partial(
    nll_loss, x_BTHWC=x_BTHWC, config=config, distance=judges.distance
  )
  if log_variance is None:
    log_variance = config.log_variance
  given = decoded_BTHWC, jnp.asarray(log_variance, jnp.float32)
  kl = kl_loss(posterior)
  if judges.logits is None:
    value, terms = nll(*given)
    return value + config.kl * kl, {"nll": value, **terms, "kl": kl}
  (value, terms), slopes = jax.value_and_grad(nll, (0, 1), has_aux=True)(*given)
  adversarial, weight, slope = _adversarial(
    decoded_BTHWC, slopes[0], config, judges
  )
  part = judges.factor * weight
  total = with_gradient(
    value + part * adversarial, given, (slopes[0] + part * slope, slopes[1])
  )
  return total + config.kl * kl, {
    "nll": value,
    **terms,
    "kl": kl,
    "adversarial": adversarial,
    "adversarial_weight": weight,
  }


def _adversarial(decoded_BTHWC, slope, config: VAELossConfig, judges: Judges):
  """Generator loss, its weight and its gradient; zeros while it is off."""

  def on():
    value, slope_adversarial = jax.value_and_grad(
      lambda pixels: -judges.logits(pixels).mean()
    )(decoded_BTHWC)
    norm, norm_adversarial = (
      jnp.linalg.norm(judges.last_layer(g).astype(jnp.float32))
      for g in (slope, slope_adversarial)
    )
    weight = jnp.clip(norm / (norm_adversarial + 1e-4), 0.0, 1e4)
    return value, config.adversary.weight * weight, slope_adversarial

  def off():
    return jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(decoded_BTHWC)

  return jax.lax.cond(jnp.asarray(judges.factor) > 0, on, off)


def with_gradient(value: jax.Array, given: Any, slopes: Any) -> jax.Array:
  """`value`, whose gradient with respect to the tree `given` is known already.

  Networks are then differentiated once, although their gradient was needed for
  the value.
  """
  still = jax.lax.stop_gradient
  moved = lambda slope, x: jnp.vdot(still(slope), x - still(x))
  return still(value) + sum(jax.tree.leaves(jax.tree.map(moved, slopes, given)))


def discriminator_loss(
  real: jax.Array, fake: jax.Array, kind: str
) -> jax.Array:
  """Half of what it loses on real and on decoded patches, from logits.

  `kind` is "hinge" or "vanilla" (binary cross-entropy).
  """
  if kind == "hinge":
    lost = jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()
  else:
    lost = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
  return 0.5 * lost
