"""The T5 encoder gives the reference's numbers and ignores padding."""

import copy

import jax.numpy as jnp
import numpy as np

from pyramid_jax.config import T5Config
from pyramid_jax.models.pure import pure
from pyramid_jax.models.t5 import T5, relative_buckets
from tests.models.text_reference import REFERENCE, t5
from tests.reference import max_error

IDS, MASK = REFERENCE["in/t5_ids"], REFERENCE["in/t5_mask"]


def test_bfloat16_features_are_close_and_the_result_is_float32():
  apply, params = t5("bfloat16")
  features = apply(params, IDS, MASK)
  assert features.dtype == jnp.float32
  # Three layers of matmuls with 8 bits of mantissa: 1.7e-2 measured.
  assert max_error(features, REFERENCE["out/t5/last_hidden_state"]) < 5e-2


def test_large_activations_survive_bfloat16():
  """Released T5s reach 1e5 and more in the residual stream."""
  (exact, params), (apply, _) = t5(), t5("bfloat16")
  params = copy.deepcopy(params)
  params["blocks"]["mlp"]["down"]["kernel"] *= 1e6
  features = np.asarray(apply(params, IDS, MASK))
  assert np.isfinite(features).all()
  assert max_error(features, exact(params, IDS, MASK)) < 5e-2


def test_padding_has_no_influence():
  """Other ids at padded places, and fewer of them, change no valid feature."""
  apply, params = t5()
  valid = MASK.astype(bool)
  features = np.asarray(apply(params, IDS, MASK))
  other = np.asarray(apply(params, np.where(valid, IDS, 7), MASK))
  np.testing.assert_array_equal(other[valid], features[valid])
  short = np.asarray(apply(params, IDS[:2, :32], MASK[:2, :32]))
  # Another length is another program: float32 sums in another order.
  np.testing.assert_allclose(
    short[valid[:2, :32]],
    features[:2, :32][valid[:2, :32]],
    atol=1e-5 * np.abs(features).max(),
  )


def test_buckets_are_exact_near_and_logarithmic_far():
  buckets = relative_buckets(200, 32, 128)
  row = buckets[100]
  np.testing.assert_array_equal(row[100:92:-1], range(8))  # earlier keys
  np.testing.assert_array_equal(row[101:108], range(17, 24))  # later keys
  assert row[100 - 16] == 10 and row[100 - 32] == 12 and row[100 - 64] == 14
  assert row[0] == 15 and row[199] == 31
  assert buckets.min() == 0 and buckets.max() == 31
  # Only the distance counts.
  np.testing.assert_array_equal(buckets[:-1, :-1], buckets[1:, 1:])


def test_full_size_parameters():
  model = pure(lambda rngs: T5(T5Config(), rngs=rngs))
  assert model.size == 4_762_310_656  # the encoder of T5 v1.1 XXL
