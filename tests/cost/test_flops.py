"""The closed formula and the count of a traced program say the same."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from pyramid_jax.config import DiTConfig
from pyramid_jax.cost import flops
from pyramid_jax.models.dit import make_dit

MMDIT = DiTConfig(
  layers=3, heads=2, head_dim=8, latent_channels=4, text_dim=12, pooled_dim=20,
  table_size=8, table_base=4, dtype="float32", attention="dense", remat="none",
)  # fmt: skip
FLUX = dataclasses.replace(
  MMDIT, kind="flux", layers=2, single_layers=3, rotary_dims=(2, 2, 4)
)
L, M, S = 24, 8, 3
ROWS = {
  "segment": (L,), "frame": (L,), "yx": (L, 2), "text": (M, 12),
  "text_segment": (M,), "pooled": (S, 20), "joint": (L + M,),
}  # fmt: skip
FLOATS = ("yx", "text", "pooled")


def arguments(model):
  shape = lambda *s, dtype=jnp.float32: jax.ShapeDtypeStruct((1, *s), dtype)
  rows = {
    k: shape(*s, dtype=jnp.float32 if k in FLOATS else jnp.int32)
    for k, s in ROWS.items()
  }
  return model.shapes, shape(L, 16), rows, shape(S)


@pytest.mark.parametrize("config", [MMDIT, FLUX], ids=["mmdit", "flux"])
def test_formula_is_the_count_of_the_traced_model(config):
  model = make_dit(config)
  program = jax.make_jaxpr(model.apply)(*arguments(model))
  expected = flops.forward(config, L, M, S, (L + M) ** 2).total
  assert flops.traced(program, "cpu").flops == expected


@pytest.mark.parametrize("config", [MMDIT, FLUX], ids=["mmdit", "flux"])
def test_training_formula_is_the_count_of_the_traced_gradient(config):
  model = make_dit(config)

  def loss(params, x, rows, timestep):
    return model.apply(params, x, rows, timestep).sum()

  program = jax.make_jaxpr(jax.grad(loss))(*arguments(model))
  expected = flops.training(config, L, M, S, (L + M) ** 2).total
  # what the trace leaves out: gradients that nothing asks for
  assert 0.97 * expected <= flops.traced(program, "cpu").flops <= expected


def test_a_loop_counts_as_often_as_it_runs():
  w = jnp.ones((4, 4))

  def once(x, _):
    return x @ w, None

  program = jax.make_jaxpr(lambda x: jax.lax.scan(once, x, length=7)[0])(w)
  assert flops.traced(program, "cpu").flops == 7 * 2 * 4**3
  assert flops.traced(program, "cpu").unknown == 0


def test_of_a_choice_by_platform_only_the_platforms_branch_counts():
  def choose(x):
    return jax.lax.platform_dependent(
      x, tpu=lambda x: x @ x @ x, default=lambda x: x @ x
    )

  program = jax.make_jaxpr(jax.jit(choose))(jnp.ones((4, 4)))
  assert flops.traced(program, "tpu").flops == 2 * 2 * 4**3
  assert flops.traced(program, "cuda").flops == 2 * 4**3


@pytest.mark.parametrize("platform, kernel", [("cuda", "gpu"), ("tpu", "tpu")])
@pytest.mark.parametrize("remat", ["none", "layer"])
def test_a_choice_made_outside_of_a_loop_counts_as_the_one_chosen(
  platform, kernel, remat
):
  """The gradient of a loop over layers takes it out as a constant."""

  def count(attention):
    config = dataclasses.replace(
      MMDIT, layers=5, attention=attention, remat=remat
    )
    model = make_dit(config)

    def loss(params, *args):
      return model.apply(params, *args).sum()

    program = jax.make_jaxpr(jax.grad(loss))(*arguments(model))
    return flops.traced(program, platform)

  assert count("auto").flops == count(kernel).flops < count("xla").flops


def test_convolutions_count_multiplications_that_are_not_with_inserted_zeros():
  x, k = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

  def convolve(x, k, stride):
    return jax.lax.conv_general_dilated(
      x, k, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  for stride in (1, 2):
    out = (8 // stride) ** 2 * 5
    program = jax.make_jaxpr(lambda x, k, s=stride: convolve(x, k, s))(x, k)
    forward = 2 * out * 27
    assert flops.traced(program, "cpu").flops == forward
    for factor in (0, 1):  # each gradient multiplies what the result did
      gradient = lambda x, k, s=stride, i=factor: jax.grad(
        lambda *args: convolve(*args, s).sum(), i
      )(x, k)
      program = jax.make_jaxpr(gradient)(x, k)
      assert flops.traced(program, "cpu").flops == 2 * forward


def test_recomputed_layers_are_executed_but_not_needed():
  counts = {}
  for remat in ("none", "layer"):
    model = make_dit(dataclasses.replace(MMDIT, remat=remat))

    def loss(params, *args, model=model):
      return model.apply(params, *args).sum()

    program = jax.make_jaxpr(jax.grad(loss))(*arguments(model))
    counts[remat] = flops.traced(program, "cpu").flops
  assert counts["none"] < counts["layer"] < 4 / 3 * counts["none"]
