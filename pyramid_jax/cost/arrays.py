"""The largest arrays of a traced program, where a compiler names none."""

import math
from collections.abc import Iterator

from pyramid_jax.cost.flops import inside


def largest(
  jaxpr, devices: int, count: int = 8
) -> list[tuple[float, str, str]]:
  """(bytes a device, shape, what makes it), the largest first.

  Before any compiler has fused them, and taken to be split over all devices;
  the shape is that of the whole, and says so.
  """
  best: dict[str, tuple[float, str, str]] = {}
  for aval, what in _made(getattr(jaxpr, "jaxpr", jaxpr)):
    size = math.prod(aval.shape) * aval.dtype.itemsize / devices
    shape = aval.str_short(short_dtypes=True)
    best.setdefault(shape, (size, shape, what))
  found = sorted(best.values(), reverse=True)[:count]
  whole = f" over all {devices} devices" if devices > 1 else ""
  return [(size, shape + whole, what) for size, shape, what in found]


def _made(jaxpr) -> Iterator[tuple]:
  """Arrays that equations make; those of a loop's steps, stacked, by name."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "shard_map":
      continue  # it lists what other platforms' kernels would keep as well
    what = [eqn.primitive.name] * len(eqn.outvars)
    if eqn.primitive.name == "scan":
      body, length = eqn.params["jaxpr"].jaxpr, eqn.params["length"]
      maker = {v: e.primitive.name for e in body.eqns for v in e.outvars}
      made = [maker.get(v, "input") for v in body.outvars]
      what = [f"{name}, of all {length} steps of a loop" for name in made]
    for variable, name in zip(eqn.outvars, what, strict=True):
      if hasattr(variable.aval, "dtype"):
        yield variable.aval, name
    for sub in inside(eqn.params):
      yield from _made(sub)
