"""Text encoders against the released ones."""

import pytest

from tests.reference import names
from tests.verify.compare import check


@pytest.mark.parametrize("name", names("text"))
def test_features_and_vectors_of_the_released_encoders(name):
  check(name, 0.1)
