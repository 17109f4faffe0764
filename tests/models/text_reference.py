"""The reference text encoders as ours, compiled once."""

import functools

import jax

from pyramid_jax.convert import text as convert
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.pure import pure
from pyramid_jax.models.t5 import T5
from tests import reference

REFERENCE = reference.load("text_encoders")


@functools.cache
def t5(dtype="float32"):
  """The jitted encoder and its parameters."""
  config = convert.t5_config(REFERENCE.config["t5"], dtype)
  model = pure(lambda rngs: T5(config, rngs=rngs))
  tensors = REFERENCE.under("param/t5/")
  params = convert.t5_from_torch(config, tensors, model.shapes)
  return jax.jit(model.apply), params


@functools.cache
def clip(name, dtype="float32"):
  """The jitted encoder and its parameters; `name` is "clip_l" or "clip_g"."""
  config = convert.clip_config(REFERENCE.config[name], dtype)
  model = pure(lambda rngs: CLIPText(config, rngs=rngs))
  tensors = REFERENCE.under(f"param/{name}/")
  params = convert.clip_from_torch(config, tensors, model.shapes)
  return jax.jit(model.apply), params
