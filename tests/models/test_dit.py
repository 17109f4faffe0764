"""Both transformers against the released code, and what packing promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pyramid_jax.config import MINIFLUX, ConfigError, DiTConfig
from pyramid_jax.convert import dit, names
from pyramid_jax.convert.models import DIT
from pyramid_jax.models import layers, pure, streams
from pyramid_jax.models.dit import make_dit
from pyramid_jax.verify.dit import Part, pack, sizes
from tests import reference


def small(**changes):
  """A tiny model with random weights everywhere, and a row of two segments."""
  config = DiTConfig(
    **{
      **dict(layers=3, heads=2, head_dim=8, latent_channels=2, text_dim=5,
             pooled_dim=3, table_size=16, table_base=4, dtype="float32",
             remat="none"),
      **changes,
    }
  )  # fmt: skip
  model = make_dit(config)
  leaves, tree = jax.tree.flatten(model.shapes)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = tree.unflatten(
    [
      0.2 * jax.random.normal(k, s.shape)
      for k, s in zip(keys, leaves, strict=True)
    ]
  )
  rng = np.random.default_rng(0)
  parts = []
  for T, side, text in ((3, 2, 4), (2, 3, 1)):
    n = T * side * side
    yx = np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1)
    parts.append(
      Part(
        place=(0, len(parts)),
        shape=(2, T, 2 * side, 2 * side),
        x=rng.normal(size=(n, 8)).astype(np.float32),
        frame=np.repeat(np.arange(T), side * side),
        yx=np.tile(yx.reshape(-1, 2), (T, 1)) + 4.5,
        is_target=np.ones(n, bool),
        text=rng.normal(size=(text, 5)).astype(np.float32),
        pooled=rng.normal(size=3).astype(np.float32),
        timestep=np.float32(rng.uniform(0, 1000)),
      )
    )
  return model, params, parts


def test_packed_row_is_its_segments_one_by_one_forward_and_backward():
  model, params, parts = small()

  @jax.jit
  @jax.value_and_grad
  def total(params, rows, x):
    v = model.apply(params, x, rows, rows["timestep"])
    return (jnp.sin(v) * (rows["segment"] > 0)[..., None]).sum()

  value, grads = total(params, *pack([parts], sizes(parts)))
  one_by_one = [total(params, *pack([[part]], sizes(parts))) for part in parts]
  # sums of a few hundred float32 values
  np.testing.assert_allclose(value, sum(v for v, _ in one_by_one), rtol=1e-5)
  jax.tree.map(
    lambda g, *gs: np.testing.assert_allclose(g, sum(gs), rtol=2e-4, atol=2e-5),
    grads,
    *[g for _, g in one_by_one],
  )


FLUX = dict(kind="flux", single_layers=1, rotary_dims=(4, 2, 2))


@pytest.mark.parametrize("kind", [{}, FLUX])
def test_weights_as_they_are_used_give_the_same_to_the_bit(kind):
  model, params, parts = small(layers=1, dtype="bfloat16", **kind)
  used = jax.tree.map(lambda x, s: x.astype(s.dtype), params, model.used)
  narrow = [x.dtype == jnp.bfloat16 for x in jax.tree.leaves(used)]
  assert 0 < sum(narrow) < len(narrow)
  rows, x = pack([parts], sizes(parts))
  run = jax.jit(model.apply)
  whole, part = (run(p, x, rows, rows["timestep"]) for p in (params, used))
  np.testing.assert_array_equal(whole, part)


@pytest.mark.parametrize("causal", [True, False])
def test_later_frames_have_exactly_zero_influence(causal):
  model, params, parts = small(causal=causal)
  rows, x = pack([parts[:1]], sizes(parts[:1]))

  def first_frame(x):
    v = model.apply(params, x, rows, rows["timestep"])
    return (
      v**2 * (rows["frame"] == 0)[..., None] * (rows["segment"] > 0)[..., None]
    ).sum()

  grad = np.abs(jax.jit(jax.grad(first_frame))(x))[0].sum(-1)
  later = (rows["frame"][0] > 0) & (rows["segment"][0] > 0)
  assert grad[~later & (rows["segment"][0] > 0)].min() > 0
  if causal:
    np.testing.assert_array_equal(grad[later], 0)
  else:
    assert grad[later].min() > 0


def test_text_never_sees_later_frames_nor_other_segments():
  model, params, parts = small()
  rows, x = pack([parts], sizes(parts))

  def influence(text):
    v = model.apply(params, x, {**rows, "text": text}, rows["timestep"])
    return (v**2 * (rows["segment"] == 1)[..., None]).sum()

  grad = np.abs(jax.jit(jax.grad(influence))(rows["text"]))[0].sum(-1)
  own = rows["text_segment"][0] == 1
  assert grad[own].min() > 0
  np.testing.assert_array_equal(grad[~own], 0)


def grad_of(remat):
  """The program of a gradient, and its value."""
  model, params, parts = small(remat=remat)
  rows, x = pack([parts], sizes(parts))
  f = lambda p: (model.apply(p, x, rows, rows["timestep"]) ** 2).sum()
  return str(jax.make_jaxpr(jax.grad(f))(params)), jax.jit(jax.grad(f))(params)


@pytest.mark.parametrize("remat", ["matmuls", "attention", "layer"])
def test_remat_changes_the_program_but_not_the_gradient(remat, monkeypatch):
  monkeypatch.setattr(pure, "FEW_LAYERS", 0)  # both loop over the layers
  plain, expected = grad_of("none")
  program, actual = grad_of(remat)
  assert program.count("remat") > plain.count("remat")
  jax.tree.map(
    # the same sums, fused differently
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    actual, expected,
  )  # fmt: skip


def test_layers_give_the_same_in_a_loop_and_one_after_the_other(monkeypatch):
  straight, expected = grad_of("none")
  monkeypatch.setattr(pure, "FEW_LAYERS", 0)
  looped, actual = grad_of("none")
  assert "unroll=2" in straight and "unroll=2" not in looped
  # some roundings of float32
  errors = jax.tree.map(reference.max_error, actual, expected)
  assert max(jax.tree.leaves(errors)) < 1e-5


def test_bfloat16_compute_stays_near_float32():
  model, params, parts = small()
  rows, x = pack([parts], sizes(parts))
  exact, half = (
    jax.jit(m.apply)(params, x, rows, rows["timestep"])
    for m in (model, small(dtype="bfloat16")[0])
  )
  assert half.dtype == jnp.float32
  # bfloat16 keeps 8 bits; three layers lose a little more than one rounding
  assert reference.max_error(half, np.asarray(exact)) < 0.05


def test_a_new_model_starts_from_zero_velocity():
  model, _, parts = small()
  rows, x = pack([parts], sizes(parts))
  params = model.init(0)
  velocity = jax.jit(model.apply)(params, x, rows, rows["timestep"])
  np.testing.assert_array_equal(velocity, 0)
  gates = params["blocks"]["latent"]["modulation"]
  np.testing.assert_array_equal(gates["kernel"], 0)


@pytest.mark.parametrize(
  "config, count, tensor, shape",
  [
    (
      DiTConfig(),
      2_028_334_144,
      "transformer_blocks.23.norm1_context.linear.weight",
      (3072, 1536),
    ),
    (
      MINIFLUX,
      1_972_059_200,
      "single_transformer_blocks.15.proj_out.weight",
      (1920, 9600),
    ),
  ],
  ids=lambda x: getattr(x, "kind", ""),
)
def test_full_size_model_has_the_released_parameter_count(
  config, count, tensor, shape
):
  model = make_dit(config)
  shapes = names.torch_shapes(DIT.names(config), model.shapes)
  assert shapes[tensor] == shape
  assert model.size == count


@pytest.mark.parametrize("name", ["mmdit_train", "flux_train"])
def test_names_are_a_bijection_and_the_round_trip_is_exact(name):
  ref = reference.load(name)
  config, tensors = DIT.read_config(ref.config["model"]), ref.under("param/")
  params = DIT.from_torch(config, tensors)
  back = DIT.to_torch(config, params)
  assert back.keys() == tensors.keys()
  for key, tensor in tensors.items():
    np.testing.assert_array_equal(back[key], tensor, err_msg=key)


@pytest.mark.parametrize("name", ["mmdit_train", "flux_train"])
def test_the_config_of_the_released_code_comes_back(name):
  values = reference.load(name).config["model"]
  config = DIT.read_config(values)
  assert DIT.read_config(DIT.write_config(config)) == config
  assert (
    values.items()
    >= {
      k: v for k, v in DIT.write_config(config).items() if k in values
    }.items()
  )


def test_a_foreign_position_table_is_refused():
  ref = reference.load("mmdit_train")
  config = DIT.read_config(ref.config["model"])
  tensors = {**ref.under("param/"), dit.POSITIONS: np.zeros((1, 576, 48))}
  with pytest.raises(names.NameTableError, match="table_base 8"):
    DIT.from_torch(config, tensors)


def test_rotary_dims_that_make_no_head_are_refused():
  with pytest.raises(ConfigError, match=r"rotary_dims \(16, 24\) .* 64"):
    make_dit(dataclasses.replace(MINIFLUX, rotary_dims=(16, 24)))


@pytest.mark.parametrize("where", ["cpu", "tpu"])
def test_each_token_is_told_its_own_segment(where, monkeypatch):
  monkeypatch.setattr(streams, "platform", lambda: where)
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, 5, 8))
  segment = jax.random.randint(keys[1], (2, 40), 0, 6)  # 0 is padding
  grad = jax.random.normal(keys[2], (2, 40, 8))
  out, pull = jax.vjp(lambda x: streams.per_token(x, segment), x)
  index = np.maximum(np.asarray(segment) - 1, 0)
  rows = np.arange(2)[:, None]
  np.testing.assert_array_equal(out, np.asarray(x)[rows, index])
  summed = np.zeros(x.shape)
  np.add.at(summed, (rows, index), np.asarray(grad, np.float64))
  np.testing.assert_allclose(pull(grad)[0], summed, atol=1e-5)


def test_kernels_that_are_cast_once_give_what_each_use_would_cast():
  config = DiTConfig(heads=2, head_dim=8, dtype="bfloat16")
  layer = streams.QKV(config, rngs=nnx.Rngs(0))
  cast = layers.cast_once(layer, jnp.bfloat16)
  assert cast.query.kernel.dtype == jnp.bfloat16
  assert cast.query_norm.scale.dtype == cast.query.bias.dtype == jnp.float32
  x = np.random.default_rng(0).normal(size=(1, 5, 16)).astype(jnp.bfloat16)
  jax.tree.map(np.testing.assert_array_equal, cast(x), layer(x))
