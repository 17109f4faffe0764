"""Name tables move values exactly and refuse whatever does not fit."""

import jax
import numpy as np
import pytest

from pyramid_jax.convert import names
from pyramid_jax.convert.names import Name

LAYER = [
  Name("layers.conv.kernel", "blocks.{}.conv.weight", names.CONV3D),
  Name("layers.qk.kernel", ("blocks.{}.q", "blocks.{}.k"), "n o i -> i n o"),
]
TABLE = [
  Name("embed.kernel", "proj.weight", names.PATCH, {"p": 2, "q": 2}),
  Name("embed.bias", "proj.bias"),
  *names.stacked(LAYER, range(3)),
]
TORCH = {
  "proj.weight": (6, 5, 2, 2),
  "proj.bias": (6,),
  **{f"blocks.{i}.conv.weight": (2, 3, 4, 5, 6) for i in range(3)},
  **{f"blocks.{i}.{n}": (7, 8) for i in range(3) for n in "qk"},
}
OURS = {
  "embed": {"kernel": (20, 6), "bias": (6,)},
  "layers": {
    "conv": {"kernel": (3, 4, 5, 6, 3, 2)},
    "qk": {"kernel": (3, 8, 2, 7)},
  },
}


def structs(shapes):
  return jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, np.float32),
    shapes,
    is_leaf=lambda s: isinstance(s, tuple),
  )


def tensors():
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in TORCH.items()
  }


def test_torch_shapes_follow_from_ours():
  assert names.torch_shapes(TABLE, structs(OURS)) == TORCH


def test_round_trip_is_bit_equal():
  torch = tensors()
  ours = names.to_ours(TABLE, torch, structs(OURS))
  assert jax.tree.map(np.shape, ours) == OURS
  back = names.to_torch(TABLE, ours)
  assert back.keys() == torch.keys()
  for name, value in torch.items():
    np.testing.assert_array_equal(back[name], value)


def test_values_land_where_the_layout_says():
  torch = tensors()
  ours = names.to_ours(TABLE, torch, structs(OURS))
  np.testing.assert_array_equal(
    ours["layers"]["conv"]["kernel"][1, 2, 3, 4, 1, 0],
    torch["blocks.1.conv.weight"][0, 1, 2, 3, 4],
  )
  np.testing.assert_array_equal(
    ours["layers"]["qk"]["kernel"][2, :, 1], torch["blocks.2.k"].T
  )
  np.testing.assert_array_equal(
    ours["embed"]["kernel"][(0 * 2 + 1) * 5 + 3],
    torch["proj.weight"][:, 3, 0, 1],
  )


def test_every_misfit_is_listed_at_once():
  torch = tensors()
  del torch["proj.bias"]
  torch["stray"] = torch["spare"] = np.zeros(1)
  torch["blocks.1.q"] = np.zeros((7, 9))
  with pytest.raises(names.NameTableError) as error:
    names.to_ours(TABLE, torch, structs(OURS))
  message = str(error.value)
  assert "proj.bias" in message and "stray" in message
  assert "blocks.1.q (7, 9), the model's is (7, 8)" in message
  assert "spare" in message and "blocks.2.q" not in message


def test_every_parameter_has_one_name():
  twice = [*TABLE, Name("embed.bias", "proj.bias")]
  with pytest.raises(names.NameTableError, match="named twice"):
    names.torch_shapes(twice, structs(OURS))
  with pytest.raises(names.NameTableError, match="without a name"):
    names.torch_shapes(TABLE[1:], structs(OURS))
