"""Every tensor of the text encoders has one place in ours, both ways."""

import dataclasses

import numpy as np
import pytest

from pyramid_jax.config import ConfigError, T5Config
from pyramid_jax.convert import names, text
from pyramid_jax.convert.models import CLIP_ENCODER, T5_ENCODER
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.pure import pure
from pyramid_jax.models.t5 import T5
from pyramid_jax.models.text import CLIP_G, CLIP_L
from tests import reference

REFERENCE = reference.load("text_encoders")
CLIPS = ("clip_l", "clip_g")


def clip(name="clip_l", **changes):
  """Config and torch tensors of a reference CLIP."""
  config = text.clip_config(REFERENCE.config[name])
  config = dataclasses.replace(config, **changes)
  return config, REFERENCE.under(f"param/{name}/")


def t5():
  """Config and torch tensors of the reference T5."""
  config = text.t5_config(REFERENCE.config["t5"])
  return config, REFERENCE.under("param/t5/")


def assert_same(actual, desired):
  assert actual.keys() == desired.keys()
  for name, value in desired.items():
    np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("name", CLIPS)
def test_clip_round_trip_is_bit_equal(name):
  config, tensors = clip(name)
  params = CLIP_ENCODER.from_torch(config, tensors)
  assert_same(CLIP_ENCODER.to_torch(config, params), tensors)


def test_t5_round_trip_is_bit_equal():
  config, tensors = t5()
  params = T5_ENCODER.from_torch(config, tensors)
  assert_same(T5_ENCODER.to_torch(config, params), tensors)


@pytest.mark.parametrize(
  ("model", "table", "config", "tensors"),
  [
    (T5, text.t5_names, T5Config(), 219),
    (CLIPText, text.clip_names, CLIP_L, 197),
    (CLIPText, text.clip_names, CLIP_G, 517),
  ],
)
def test_full_size_tables_name_every_parameter_once(
  model, table, config, tensors
):
  built = pure(lambda rngs: model(config, rngs=rngs))
  shapes = names.torch_shapes(table(config), built.shapes)
  assert len(shapes) == tensors
  assert sum(int(np.prod(s)) for s in shapes.values()) == built.size


def test_clip_names_may_lack_the_prefix():
  config, tensors = clip()
  bare = {name.removeprefix("text_model."): x for name, x in tensors.items()}
  assert bare.keys() != tensors.keys()
  bare["embeddings.position_ids"] = np.arange(77)[None]  # a buffer
  params = CLIP_ENCODER.from_torch(config, bare)
  assert_same(CLIP_ENCODER.to_torch(config, params), tensors)


def test_the_flux_type_leaves_the_projection_out():
  config, tensors = clip(projection=0)
  params = CLIP_ENCODER.from_torch(config, tensors)
  del tensors["text_projection.weight"]
  assert_same(CLIP_ENCODER.to_torch(config, params), tensors)


def test_t5_embedding_may_have_either_name_or_both():
  config, tensors = t5()
  embedding = tensors["shared.weight"]
  both = {**tensors, "encoder.embed_tokens.weight": embedding}
  other = {k: v for k, v in both.items() if k != "shared.weight"}
  for variant in (both, other):
    params = T5_ENCODER.from_torch(config, variant)
    assert_same(T5_ENCODER.to_torch(config, params), tensors)


def test_configs_round_trip():
  for name in CLIPS:
    config = clip(name)[0]
    assert text.clip_config(text.clip_json(config)) == config
  config = t5()[0]
  assert text.t5_config(text.t5_json(config)) == config


def test_released_sizes_are_the_defaults():
  assert text.t5_config(text.t5_json(T5Config()), "bfloat16") == T5Config()
  assert text.clip_config(text.clip_json(CLIP_G), "bfloat16") == CLIP_G


def test_configs_that_cannot_be_built_are_refused():
  values = text.t5_json(T5Config())
  with pytest.raises(ConfigError, match="'relu'.*'gated-gelu'"):
    text.t5_config({**values, "feed_forward_proj": "relu"})
  del values["d_kv"], values["d_ff"]
  with pytest.raises(ConfigError, match="T5 config.json lacks d_kv, d_ff"):
    text.t5_config(values)
