"""Every recorded generation through the compiled program, not only two."""

import pytest

from tests.flow import test_sampler_goldens as goldens
from tests.flow.programs import program
from tests.reference import names

DEFAULT = {"sampler_mmdit_t2v", "sampler_mmdit_i2v"}  # in every run


@pytest.mark.parametrize(
  "name", sorted({*names("sampler_mmdit", "sampler_flux")} - DEFAULT)
)
def test_program_gives_the_latents_of_the_released_code(name):
  apply, _ = goldens.velocities(name)
  params = goldens.load(name)[2]
  error = goldens.worst_error(name, apply, params, program)
  assert error < goldens.LIMIT
