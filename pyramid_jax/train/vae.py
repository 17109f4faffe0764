"""The training step of the VAE.

Legend: B clips of a step, T frames, H W pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import optax

from pyramid_jax.config import (
  AdversaryConfig,
  Config,
  ConfigError,
  LPIPSConfig,
  VAELossConfig,
)
from pyramid_jax.data.sizes import check_frames
from pyramid_jax.models import critic, vae
from pyramid_jax.models.pure import Params, Pure, pure
from pyramid_jax.sharding import RULES, beside_split_pictures
from pyramid_jax.train.accumulate import accumulate, check_parts
from pyramid_jax.train.judges import Judges, make_judges
from pyramid_jax.train.optimizer import make_optimizer
from pyramid_jax.train.program import Program
from pyramid_jax.train.state import Learned, TrainState, update

Batch = Mapping[str, jax.Array]


def encode(
  model: Pure, params, batch: Batch, key: jax.Array
) -> tuple[vae.Posterior, jax.Array]:
  """The posterior of a batch's clips, and a draw of each from its number."""
  moments = model.apply(params, batch["video"], method="encode")
  posterior = vae.posterior(moments)
  eps = draw(key, batch["index"], posterior.mean.shape[1:])
  return posterior, posterior.sample(eps)


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
  judges: Judges,
):
  """The function (state, batch, key) -> (state, metrics), to be jitted.

  A batch has `video` [B, T, H, W, 3] in [-1, 1] and `index` [B], the clips'
  global numbers. With LPIPS the function also takes `lpips`, its parameters.
  Both networks take a step on the same pixels; the discriminator's part is
  weighted anew for each microbatch, and it sits out clips that are too small
  for it. Metrics, float32: loss, its terms, gradient norms.
  """

  def step(state: TrainState, batch: Batch, key: jax.Array, lpips=None):
    adversary = judges.adversary
    if adversary and not judges_clips(adversary.model, batch["video"].shape):
      adversary = None
    since = state.step - weights.adversary.start
    on, factor = since >= 0, adversarial_factor(weights.adversary, since)

    def loss(params, part):
      q, z = encode(model, params, part, key)
      if adversary is None:
        pixels = model.apply(params, z, method="decode")
        judge = critic.Judges()
      else:
        pixels, last_layer = critic.decode(model, params, z)
        known = beside_split_pictures(state.adversary["params"])
        logits = partial(adversary.model.apply, known)
        judge = critic.Judges(None, logits, factor, last_layer)
      if judges.lpips:
        known = beside_split_pictures(lpips)
        judge = replace(judge, distance=partial(judges.lpips.apply, known))
      value, terms = critic.vae_loss(pixels, part["video"], q, weights, judge)
      return value, (terms, pixels)

    def of(part):
      (value, (terms, pixels)), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params, part
      )
      if adversary is None:
        return value, terms, grads, None
      judge = jax.value_and_grad(partial(_lost, adversary.model, weights))
      lost, slopes = _if(on, judge, state.adversary["params"], part, pixels)
      return value, {**terms, "discriminator": lost}, grads, slopes

    total = accumulate(of, batch, microbatches)
    mean = lambda x: x / microbatches
    value, terms, grads, slopes = jax.tree.map(mean, total)
    learned = adversary and Learned(adversary.tx, slopes, on)
    if adversary:
      terms["adversarial_factor"] = factor
    state, norms = update(state, grads, value, tx, ema_decay, learned)
    return state, {"loss": value, **terms, **norms}

  return step


def adversarial_factor(config: AdversaryConfig, since: jax.Array) -> jax.Array:
  """By what a discriminator counts `since` steps after its start; 0 before."""
  risen = jnp.clip((since + 1) / max(config.warmup, 1), 0.0, 1.0)
  return config.factor * risen.astype(jnp.float32)


def judges_clips(discriminator: Pure, shape: tuple[int, ...]) -> bool:
  """Whether clips [B, T, H, W, 3] have a patch that it could judge."""
  clips = jax.ShapeDtypeStruct(shape, jnp.float32)
  logits = jax.eval_shape(discriminator.apply, discriminator.shapes, clips)
  return 0 not in logits.shape


def _if(on: jax.Array, function: Callable, *given):
  """What a function returns, or zeros in its place; it is not computed then."""
  shapes = jax.eval_shape(function, *given)
  return jax.lax.cond(
    on, lambda: function(*given), lambda: optax.tree.zeros_like(shapes)
  )


def _lost(
  model: Pure,
  weights: VAELossConfig,
  params: Params,
  part: Batch,
  pixels: jax.Array,
) -> jax.Array:
  """The discriminator's loss on clips and what the decoder made of them."""
  params = beside_split_pictures(params)
  real, fake = (model.apply(params, x) for x in (part["video"], pixels))
  adversary = weights.adversary
  return adversary.factor * critic.discriminator_loss(
    real, fake, adversary.loss
  )


def make_program(
  config: Config, lpips_sizes: LPIPSConfig | None = None
) -> Program:
  """Model, optimizer and step of a config; needs no data.

  Args:
    config: of the run.
    lpips_sizes: of a perceptual loss whose file is not at hand (a plan).

  Raises:
    ConfigError: phases that do not fit the run, the VAE or the microbatches,
      a discriminator that would never learn, or no weights for a perceptual
      loss.
  """
  check_phases(config)
  train, phases = config.train, config.videos.phases
  model = pure(lambda rngs: vae.VAE(config.vae, rngs=rngs))
  tx = make_optimizer(
    config.optimizer, model.axes, *((p.steps, p.rate) for p in phases)
  )
  judges = make_judges(config, lpips_sizes)
  if judges.adversary:
    check_adversary(config, judges.adversary.model)
  step = make_step(
    model, tx, config.vae_loss, train.microbatches, config.optimizer.ema, judges
  )
  frozen = {"lpips": judges.lpips} if judges.lpips else {}
  return Program(model, tx, step, judges.adversary, frozen)


def check_phases(config: Config):
  """Raises ConfigError for phases that do not fit the run."""
  train, phases = config.train, config.videos.phases
  steps = sum(phase.steps for phase in phases)
  if steps != train.steps:
    raise ConfigError(
      f"the phases of config.videos have {steps} steps in all, "
      f"config.train.steps is {train.steps}; make them equal."
    )
  for phase in phases:
    check_frames(phase.frames, config.flow, config.vae)
    if not phase.rate > 0:
      raise ConfigError(
        f"a phase's rate {phase.rate:g} must be above 0; it multiplies "
        f"config.optimizer.learning_rate {config.optimizer.learning_rate:g}."
      )
    for shape in phase.shapes:
      if shape.batch % train.microbatches:
        name = "batch" if shape == phase else "batch of images"
        raise ConfigError(
          f"a phase's {name} {shape.batch} is not a multiple of "
          f"config.train.microbatches {train.microbatches}; nearest: "
          f"{-(-shape.batch // train.microbatches) * train.microbatches}."
        )


def check_heights(config: Config, mesh: jax.sharding.Mesh):
  """Refuses clips whose height the mesh does not split as gradients need it.

  At every level, and over all devices of a clip: where a level stays whole
  between split ones, or devices of a tensor axis hold the same rows, gradients
  of kernels were twice those of one device (JAX 0.10).

  Raises:
    ConfigError: says what the height or the mesh may be.
  """
  factor = 2 ** sum(config.vae.down_space)
  split, same = mesh.shape[RULES["space"]], mesh.shape["tensor"]
  if split > 1 and same > 1:
    raise ConfigError(
      f"config.mesh.tensor {same} beside config.mesh.sequence {split}: heights "
      "are split by sequence alone. Set tensor to 1, raise sequence, fsdp or "
      "data."
    )
  phases = config.videos.phases
  for height in (shape.height for p in phases for shape in p.shapes):
    if height % (factor * split):
      raise ConfigError(
        f"a phase's height {height} is not a multiple of {factor} x "
        f"config.mesh.sequence {split} = {factor * split}: the latents' rows "
        "cannot be split; change the height, or lower config.mesh.sequence."
      )


def check_batches(config: Config, mesh: jax.sharding.Mesh):
  """Refuses batches that the mesh and the microbatches do not divide.

  Raises:
    ConfigError: names the phase's setting and says what it may be.
  """
  for i, phase in enumerate(config.videos.phases):
    kinds = ["batch"] * (phase.image_ratio < 1)
    if phase.image_ratio > 0:
      kinds.append("images" if phase.images else "batch x frames")
    for kind, shape in zip(kinds, phase.shapes, strict=True):
      name = f"config.videos.phases[{i}].{kind}"
      within = "a clip over config.mesh.sequence"
      check_parts(mesh, name, shape.batch, config.train.microbatches, within)


def check_adversary(config: Config, model: Pure):
  """Raises ConfigError for a discriminator that would never learn."""
  adversary = config.vae_loss.adversary
  if adversary.start >= config.train.steps:
    raise ConfigError(
      f"config.vae_loss.adversary.start {adversary.start} is not before the "
      f"run's end, step {config.train.steps}; lower it, or set its kind to "
      '"none".'
    )
  shapes = [
    (shape.batch, shape.frames, shape.height, shape.width, 3)
    for phase in config.videos.phases
    for shape in phase.shapes
  ]
  if not any(judges_clips(model, shape) for shape in shapes):
    raise ConfigError(
      f"clips of {', '.join(f'{t} x {h} x {w}' for _, t, h, w, _ in shapes)} "
      f"are too small for a discriminator of {adversary.layers} layers; lower "
      "config.vae_loss.adversary.layers."
    )
