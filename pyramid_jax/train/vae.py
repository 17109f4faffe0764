"""The training step of the VAE.

Legend: B clips of a step, T frames, H W pixels.
"""

from collections.abc import Mapping

import jax
import optax

from pyramid_jax.config import ConfigError, VAELossConfig
from pyramid_jax.models import critic, vae
from pyramid_jax.models.pure import Pure
from pyramid_jax.train.accumulate import accumulate
from pyramid_jax.train.state import TrainState, update

Batch = Mapping[str, jax.Array]


def reconstruct(
  model: Pure, params, video_BTHWC: jax.Array, eps: jax.Array | None
) -> tuple[jax.Array, vae.Posterior]:
  """Pixels after a round trip, through a draw (or the mean) of the latents.

  `eps` is unit normal noise in the shape of the latents, or None.
  """
  moments = model.apply(params, video_BTHWC, method="encode")
  posterior = vae.posterior(moments)
  z = posterior.mode if eps is None else posterior.sample(eps)
  return model.apply(params, z, method="decode"), posterior


def draw(key: jax.Array, index_B: jax.Array, shape: tuple[int, ...]):
  """Noise [B, *shape] of clips by their global number, on any mesh the same."""
  one = lambda i: jax.random.normal(jax.random.fold_in(key, i), shape)
  return jax.vmap(one)(index_B)


def make_step(
  model: Pure,
  tx: optax.GradientTransformation,
  weights: VAELossConfig,
  microbatches: int,
  ema_decay: float,
):
  """The function (state, batch, key) -> (state, metrics), to be jitted.

  A batch has `video` [B, T, H, W, 3] in [-1, 1] and `index` [B], the clips'
  global numbers. Metrics, float32: loss, its terms, grad_norm.
  """
  if weights.perceptual or weights.adversary.kind != "none":
    raise ConfigError(
      "vae_loss.perceptual and vae_loss.adversary are not part of the training "
      "step yet; set them to 0 and \"none\"."
    )

  def step(state: TrainState, batch: Batch, key: jax.Array):
    def loss(params, part):
      moments = jax.eval_shape(
        lambda p, x: model.apply(p, x, method="encode"), params, part["video"]
      )
      *shape, size = moments.shape[1:]
      eps = draw(key, part["index"], (*shape, size // 2))
      pixels, posterior = reconstruct(model, params, part["video"], eps)
      return critic.vae_loss(pixels, part["video"], posterior, weights)

    def of(part):
      return jax.value_and_grad(loss, has_aux=True)(state.params, part)

    total = accumulate(of, batch, microbatches)
    mean = lambda x: x / microbatches
    (value, terms), grads = jax.tree.map(mean, total)
    state, metrics = update(state, grads, value, tx, ema_decay)
    return state, {"loss": value, **terms, **metrics}

  return step
