"""The reference text encoders as ours: configs, parameters, inputs."""

import jax

from pyramid_jax.convert import text as convert
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.pure import pure
from pyramid_jax.models.t5 import T5
from tests import reference

REFERENCE = reference.load("text_encoders")


def t5(dtype="float32"):
  """The model and its parameters."""
  config = convert.t5_config(REFERENCE.config["t5"], dtype)
  model = pure(lambda rngs: T5(config, rngs=rngs))
  tensors = REFERENCE.under("param/t5/")
  return model, convert.t5_from_torch(config, tensors, model.shapes)


def clip(name, dtype="float32", **changes):
  """The model and its parameters; `name` is "clip_l" or "clip_g"."""
  values = {**REFERENCE.config[name], **changes}
  config = convert.clip_config(values, dtype)
  model = pure(lambda rngs: CLIPText(config, rngs=rngs))
  tensors = REFERENCE.under(f"param/{name}/")
  return model, convert.clip_from_torch(config, tensors, model.shapes)


def run(model, params, *inputs):
  """One jitted call."""
  return jax.jit(model.apply)(params, *inputs)
