"""Every recorded generation through the compiled program, not only two."""

import pytest

from tests.flow import test_sampler_goldens as goldens
from tests.flow.programs import program
from tests.reference import names

# the others are compared without --full
CASES = {n.removeprefix("sampler_mmdit_") for n in names("sampler_mmdit_*")}


@pytest.mark.parametrize("case", sorted(CASES - {"t2v", "i2v"}))
def test_program_gives_the_latents_of_the_released_code(case):
  apply, _ = goldens.velocities()
  params = goldens.load(case)[2]
  error = goldens.worst_error(case, apply, params, program)
  assert error < goldens.LIMIT
