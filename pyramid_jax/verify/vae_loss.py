"""The losses of VAE training: LPIPS, discriminators, the whole with gradients.

A file has one model and several runs: before and after the discriminator
starts, with the 3D one, with the vanilla loss. C T H W as the reference has it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.config import VAELossConfig
from pyramid_jax.convert.models import CAUSAL_VAE, DISCRIMINATOR, LPIPS_VGG
from pyramid_jax.models import critic
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.verify import vae
from pyramid_jax.verify.file import Reference
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report
from pyramid_jax.verify.sampler import channels_first, channels_last

VALUE = 1e-4
LAST_LAYER = "decoder.conv_out.conv.weight"


@dataclasses.dataclass(frozen=True)
class Networks:
  """The models of a file, each with its parameters."""

  vae: tuple[Pure, Params]
  lpips: tuple[Pure, Params]
  image: tuple[Pure, Params]
  clip: tuple[Pure, Params]
  configs: dict[str, Any]


def run(file: Reference, report: Report, options: Options):
  """Compares every network alone, then each run's loss and gradients."""
  networks = _load(file, options)
  with options.on_mesh():
    _alone(file, report, options, networks)
    runs = {k.split("/")[1] for k in file.arrays if k.endswith("/loss")}
    for which in ("image", "clip"):
      program = _generator(file, options, networks, which)
      for name in sorted(r for r in runs if _which(r) == which):
        decoded = _compare_generator(file, report, networks, program, name)
        _compare_discriminator(file, report, options, networks, decoded, name)


def _which(run: str) -> str:
  """The discriminator of a run, which its name says."""
  return "clip" if run.endswith("3d") else "image"


def _factor(file: Reference, run: str) -> float:
  """How much it counts at the run's step: before its start or after."""
  return 0.0 if run == "pre" else file.config["loss"]["disc_factor"]


def _load(file: Reference, options: Options) -> Networks:
  vae_config, model, params = vae.load_weights(
    file, file.config["vae_weights"], options
  )
  found, configs = {}, {"vae": vae_config}
  for name, table, prefix in (
    ("lpips", LPIPS_VGG, "param/perceptual_loss."),
    ("image", DISCRIMINATOR, "param/discriminator."),
    ("clip", DISCRIMINATOR, "param3d/discriminator."),
  ):
    tensors = file.under(prefix)
    config = configs[name] = table.read_config(tensors)
    weights = table.from_torch(config, tensors)
    made = table.make(dataclasses.replace(config, dtype=options.dtype))
    found[name] = made, options.place(made, weights)
  return Networks((model, params), configs=configs, **found)


def _alone(file: Reference, report: Report, options: Options, networks):
  """LPIPS, its features, both discriminators, both of their losses."""
  x, y = (channels_last(file[f"in/{name}"]) for name in ("x", "y"))
  distance = options.jit(networks.lpips[0].apply)
  frames = (a[0, : y.shape[1]] for a in (x, y))
  ours = distance(networks.lpips[1], *frames)
  report.compare("out/lpips", np.reshape(ours, (-1, 1, 1, 1)), VALUE)
  if report.wants("mid/vgg"):
    count = len(file["mid/vgg0"])
    levels = options.jit(
      lambda params, x: list(
        networks.lpips[0].apply(params, x, method="features")
      )
    )(networks.lpips[1], x[0, :count])
    for i, level in enumerate(levels):
      ours = functools.partial(np.moveaxis, np.asarray(level), -1, 1)
      report.middle(f"mid/vgg{i}", ours)
  for key, name in (("disc2d", "image"), ("disc3d", "clip")):
    model, params = getattr(networks, name)
    frames = x[:, : y.shape[1]] if name == "image" else x
    logits = np.asarray(options.jit(model.apply)(params, frames))
    report.compare(f"out/{key}", np.moveaxis(logits, -1, 1), VALUE)
  real, fake = file["in/logits_real"], file["in/logits_fake"]
  for kind in ("hinge", "vanilla"):
    ours = critic.discriminator_loss(real, fake, kind)
    report.compare(f"out/{kind}", ours, VALUE)


def _generator(file: Reference, options: Options, networks, which: str):
  """The compiled loss of the VAE with one of the discriminators.

  It takes parameters, log-variance and the discriminator's factor, and gives
  ((loss, (terms, pixels)), gradients).
  """
  theirs = file.config["loss"]
  adversary = dataclasses.replace(
    networks.configs[which], weight=theirs["disc_weight"]
  )
  config = VAELossConfig(
    pixel=theirs["pixelloss_weight"],
    kl=theirs["kl_weight"],
    perceptual=theirs["perceptual_weight"],
    adversary=adversary,
  )
  model = networks.vae[0]
  judge, judge_params = getattr(networks, which)
  x, eps = (channels_last(file[f"in/{key}"]) for key in ("x", "eps"))

  def loss(params, log_variance, factor):
    q = vae_lib.posterior(model.apply(params, x, method="encode"))
    pixels, last_layer = critic.decode(model, params, q.sample(eps))
    judges = critic.Judges(
      distance=functools.partial(networks.lpips[0].apply, networks.lpips[1]),
      logits=functools.partial(judge.apply, judge_params),
      factor=factor,
      last_layer=last_layer,
    )
    value, terms = critic.vae_loss(pixels, x, q, config, judges, log_variance)
    return value, (terms, pixels)

  return options.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def _compare_generator(file, report: Report, networks, program, run: str):
  """Compares the VAE's loss, its terms, its gradients; returns the pixels."""
  factor = _factor(file, run)
  (value, (terms, pixels)), (grads, grad_variance) = program(
    networks.vae[1], jnp.asarray(file["param/logvar"]), jnp.float32(factor)
  )
  if "out/vae_rec" in report.left:  # the same in every run
    report.compare("out/vae_rec", channels_first(pixels), VALUE)
  kept = {
    "total_loss": value,
    "logvar": file["param/logvar"],
    "kl_loss": terms["kl"],
    "nll_loss": terms["nll"],
    "rec_loss": terms["pixel"],
    "perception_loss": terms["perceptual"],
    "d_weight": terms["adversarial_weight"],
    "disc_factor": factor,
    "g_loss": terms["adversarial"],
  }
  for key, ours in kept.items():
    report.compare(f"out/{run}/train/{key}", ours, VALUE)
  report.compare(f"out/{run}/loss", value, VALUE)
  ours = CAUSAL_VAE.to_torch(networks.configs["vae"], jax.device_get(grads))
  ours = {f"vae/{key}": x for key, x in ours.items()}
  ours["last_layer"], ours["logvar"] = ours[f"vae/{LAST_LAYER}"], grad_variance
  report.compare_gradients(f"grad/{run}/", ours)
  return pixels


def _compare_discriminator(
  file, report, options: Options, networks, decoded, run: str
):
  """Compares the discriminator's loss, its logits and its gradients."""
  which, factor = _which(run), _factor(file, run)
  judge, params = getattr(networks, which)
  kind = "vanilla" if run.endswith("van") else file.config["loss"]["disc_loss"]
  x = channels_last(file["in/x"])

  def loss(params):
    real, fake = (judge.apply(params, a) for a in (x, decoded))
    value = factor * critic.discriminator_loss(real, fake, kind)
    return value, (real.mean(), fake.mean())

  (value, (real, fake)), grads = options.jit(
    jax.value_and_grad(loss, has_aux=True)
  )(params)
  prefix = f"out/{run}_disc/train"
  report.compare(f"{prefix}/disc_loss", value, VALUE)
  report.compare(f"{prefix}/logits_real", real, VALUE)
  report.compare(f"{prefix}/logits_fake", fake, VALUE)
  ours = DISCRIMINATOR.to_torch(networks.configs[which], jax.device_get(grads))
  report.compare_gradients(f"grad/{run}_disc/", ours)
