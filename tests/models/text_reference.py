"""The reference text encoders as ours, compiled once."""

import dataclasses
import functools

import jax

from pyramid_jax.convert.models import CLIP_ENCODER, T5_ENCODER
from tests import reference

FILES = reference.names("text")
REFERENCE = reference.load("text_encoders")


@functools.cache
def t5(dtype="float32", file=REFERENCE.name):
  """The jitted encoder and its parameters."""
  return _load(T5_ENCODER, "t5", dtype, file)


@functools.cache
def clip(name, dtype="float32", file=REFERENCE.name):
  """The jitted encoder and its parameters; `name` is "clip_l" or "clip_g"."""
  return _load(CLIP_ENCODER, name, dtype, file)


def _load(model, name, dtype, file):
  ref = reference.load(file)
  config = model.read_config(ref.config[name])
  config = dataclasses.replace(config, dtype=dtype)
  params = model.from_torch(config, ref.under(f"param/{name}/"))
  return jax.jit(model.make(config).apply), params
