"""The CLIP text encoder gives the reference's numbers, causally."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.config import CLIPConfig, ConfigError
from pyramid_jax.models.clip import CLIPText
from pyramid_jax.models.pure import pure
from pyramid_jax.models.text import CLIP_G, CLIP_L
from tests.models.text_reference import REFERENCE, clip
from tests.reference import max_error


def test_bfloat16_outputs_are_close_and_float32():
  apply, params = clip("clip_g", "bfloat16")
  features, pooled = apply(params, REFERENCE["in/clip_g_ids"])
  assert features.dtype == pooled.dtype == jnp.float32
  # Two layers of matmuls with 8 bits of mantissa: 1.7e-2 measured.
  assert max_error(pooled, REFERENCE["out/clip_g/text_embeds"]) < 5e-2


def test_later_tokens_have_zero_gradient():
  apply, params = clip("clip_l")
  ids = REFERENCE["in/clip_l_ids"][2:]
  position = 20

  def feature(positions):
    features, _ = apply(params | {"positions": positions}, ids)
    return (features[0, position] ** 2).sum()

  gradient = np.asarray(jax.jit(jax.grad(feature))(params["positions"]))
  assert (gradient[position + 1 :] == 0).all()
  assert (np.abs(gradient[: position + 1]).max(-1) > 0).all()


@pytest.mark.parametrize(
  ("end_token", "expected"),
  [
    (2, [3, 2]),  # legacy: the largest id
    (50, [4, 2]),  # the first of this id
  ],
)
def test_the_vector_is_read_at_the_first_end_token(end_token, expected):
  config = CLIPConfig(60, 8, 8, 0, 1, 1, positions=6, end_token=end_token)
  model = pure(lambda rngs: CLIPText(config, rngs=rngs))
  ids = np.array([[1, 5, 2, 51, 50, 50], [1, 5, 50, 50, 7, 3]])
  params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), model.shapes)
  end = model.apply(params, ids, method="end")
  np.testing.assert_array_equal(end, expected)


@pytest.mark.parametrize(
  ("config", "size"),
  [
    (CLIP_L, 123_650_304),
    (dataclasses.replace(CLIP_L, projection=0), 123_060_480),
    (CLIP_G, 694_659_840),
  ],
)
def test_full_size_parameters(config, size):
  assert pure(lambda rngs: CLIPText(config, rngs=rngs)).size == size


def test_unknown_activation_is_refused():
  config = dataclasses.replace(CLIP_L, activation="relu")
  with pytest.raises(ConfigError, match="'relu'.*quick_gelu"):
    pure(lambda rngs: CLIPText(config, rngs=rngs))
