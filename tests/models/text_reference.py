"""The reference text encoders as ours, compiled once."""

import functools

import jax

from pyramid_jax.convert import text as convert
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.pure import pure
from pyramid_jax.models.t5 import T5
from tests import reference

FILES = reference.names("text")
REFERENCE = reference.load("text_encoders")


@functools.cache
def t5(dtype="float32", file=REFERENCE.name):
  """The jitted encoder and its parameters."""
  ref = reference.load(file)
  config = convert.t5_config(ref.config["t5"], dtype)
  model = pure(lambda rngs: T5(config, rngs=rngs))
  tensors = ref.under("param/t5/")
  params = convert.t5_from_torch(config, tensors, model.shapes)
  return jax.jit(model.apply), params


@functools.cache
def clip(name, dtype="float32", file=REFERENCE.name):
  """The jitted encoder and its parameters; `name` is "clip_l" or "clip_g"."""
  ref = reference.load(file)
  config = convert.clip_config(ref.config[name], dtype)
  model = pure(lambda rngs: CLIPText(config, rngs=rngs))
  tensors = ref.under(f"param/{name}/")
  params = convert.clip_from_torch(config, tensors, model.shapes)
  return jax.jit(model.apply), params
