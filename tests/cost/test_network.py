"""What groups of devices have of a torus, by hand."""

import types

import pytest

from pyramid_jax.cost import chips, estimate, network
from pyramid_jax.cost.hlo import Collective


def links(topology, axis, **mesh):
  """Links of a device that serve an axis of a mesh laid line by line."""
  target = chips.target(topology)
  joined = network.in_order(target)
  groups = network.along(mesh, axis, target.devices)
  return joined.links(groups) * 2 * target.chip.torus


@pytest.mark.parametrize(
  "topology, mesh, axis, expected",
  [
    ("v5p:4x4x4", dict(fsdp=64), "fsdp", 6),
    ("v5p:8x8x16", dict(fsdp=128, tensor=8), "tensor", 2),  # all of x
    ("v5p:8x8x16", dict(fsdp=128, tensor=8), "fsdp", 4),
    ("v5p:8x8x16", dict(fsdp=512, tensor=2), "tensor", 1),  # neighbours
    # every second of x, whose ring two such groups share
    ("v5p:8x8x16", dict(fsdp=512, tensor=2), "fsdp", 5),
    ("v6e:16x16", dict(fsdp=128, tensor=2), "tensor", 1),
    ("v6e:16x16", dict(fsdp=128, tensor=2), "fsdp", 3),
    ("v6e:16x16", dict(data=16, fsdp=16), "fsdp", 2),
    ("v6e:16x16", dict(data=32, fsdp=8), "fsdp", 1),  # half of a ring
    ("v5e:4x8", dict(fsdp=32), "fsdp", 2),  # open at its ends
    ("v5p:2x2x4", dict(fsdp=16), "fsdp", 3),
    ("tpu7x:4x4x4", dict(fsdp=64, tensor=2), "tensor", 6),  # one chip's
    ("tpu7x:4x4x4", dict(fsdp=64, tensor=2), "fsdp", 6),
  ],
)
def test_a_group_has_the_links_of_the_dimensions_it_spans(
  topology, mesh, axis, expected
):
  assert links(topology, axis, **mesh) == pytest.approx(expected)


def test_neighbours_over_the_closed_end_are_neighbours():
  joined = network.in_order(chips.target("v6e:16x16"))
  ring = [[i, (i + 1) % 16] for i in range(16)]
  assert joined.links(ring) == joined.links([[15, 0]]) == 1 / 4
  assert joined.links([[0, 2]]) == 1 / 8


def test_a_group_that_is_no_box_has_one_link_or_less():
  small = network.in_order(chips.target("v5e:2x4"))  # x is 0 or 1, y to 3
  assert small.links([[0, 7]]) == 1 / 4 / 4  # one place in x, three in y
  assert small.links([[0, 3]]) == 1 / 2 / 4
  assert small.links([[0, 2, 5, 7]]) == 1 / 4  # pairs of neighbours
  cube = network.in_order(chips.target("v5p:4x4x4"))
  assert cube.links([[0, 63]]) == 1 / 3 / 6  # over the closed ends


def test_devices_are_where_the_program_has_them():
  target = chips.target("v5e:2x4")
  # as JAX lays a small slice out: a ring through both rows
  ring = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (1, 2), (1, 1), (1, 0)]
  devices = [types.SimpleNamespace(coords=(*place, 0)) for place in ring]
  joined = network.of_devices(target, devices)
  mesh = dict(fsdp=2, tensor=4)
  of = lambda axis: joined.links(network.along(mesh, axis, 8))
  assert of("tensor") == 1 / 4  # a row each
  assert of("fsdp") == (1 / 4 + 1 / 2) / 2 / 4  # 4 links apart, or 2
  assert joined.links([]) == 2 / 4


def test_without_groups_all_devices_exchange():
  joined = network.in_order(chips.target("v5p:4x4x4"))
  assert joined.links([]) == 1
  assert network.in_order(chips.target("v5e:2x4")).links([]) == 2 / 4


def test_gpus_are_joined_alike_within_a_node():
  joined = network.in_order(chips.target("h100:16"))
  assert joined.links([[0, 1]]) == joined.links([[0, 9]]) == 1
  assert joined.is_far([[0, 1], [7, 8]]) and not joined.is_far([[8, 15]])


def test_a_few_of_the_links_take_longer():
  target = chips.target("v5p:8x8x16")
  sent = Collective("all-reduce", 8, 1, 12.0, 12.0, links=1 / 3)
  assert estimate.split([sent], target) == (pytest.approx(36), 0)
