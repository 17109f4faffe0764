"""Slices of TPUs, as their compiler is asked for them."""

import importlib.util
import types

import pytest
from jax.experimental import topologies

from pyramid_jax.cost import chips
from pyramid_jax.cost.compile import devices


@pytest.mark.parametrize(
  "topology, host",
  [
    ("v5e:1x1", (1, 1, 1)),
    ("v6e:1x4", (1, 4, 1)),
    ("v5p:2x1x1", (2, 1, 1)),
    ("tpu7x:1x1x1", (1, 1, 1)),
    ("v5e:2x2", None),
    ("v5p:2x2x3", None),
    ("h100:1", None),
    ("cpu:1", None),
  ],
)
def test_a_slice_smaller_than_a_host_says_so(topology, host, monkeypatch):
  target, asked = chips.target(topology), []
  assert target.host == host

  def describe(**options):
    asked.append(options)
    return types.SimpleNamespace(devices=[])

  monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
  monkeypatch.setattr(topologies, "get_topology_desc", describe)
  if target.platform == "tpu":
    devices(target)
    found = asked[0].get("chips_per_host_bounds")
    assert found == (None if host is None else list(host))
