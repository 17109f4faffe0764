"""Flax NNX modules as pure functions of a nested dict of parameters.

A module is built once without memory, split into its static graph and its
parameters, and from then on only plain JAX transforms touch it. Every
parameter carries the logical names of its dimensions and its initializer as
metadata; one without them is an error, so nothing is replicated by accident.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pyramid_jax.models.init import Init

AXES = "axes"  # not NNX's own key: that one acts on its own under a mesh
INIT = "drawn_by"

Params = dict[str, Any]


def axes(init: Init, *names: str | None) -> Callable:
  """An NNX initializer that remembers `init` and the dimensions' names.

  While shapes are traced it gives zeros; `Pure.init` draws the values.
  """

  def build(key, shape, dtype=jnp.float32, **_):
    if isinstance(key, jax.core.Tracer):
      return jnp.zeros(shape, dtype)
    seed = np.asarray(jax.random.key_data(key)).tolist()
    return jnp.asarray(init(np.random.default_rng(seed), shape), dtype)

  return nnx.with_metadata(build, **{AXES: names, INIT: init})


@dataclasses.dataclass(frozen=True)
class Pure:
  """A model as functions of its parameters.

  Attributes:
    make: builds the module from `nnx.Rngs`.
    graphdef: the module without its parameters.
    shapes: nested dict of `jax.ShapeDtypeStruct`.
    used: the same in the dtypes in which layers use them: all that has to be
      kept of weights that are not trained.
    axes: the same dict of tuples of logical axis names.
    inits: the same dict of initializers.
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  graphdef: nnx.GraphDef
  shapes: Params
  used: Params
  axes: Params
  inits: Params

  def init(self, seed: int = 0, shardings: Params | None = None) -> Params:
    """Draws the parameters, array by array, into their places on a mesh.

    Every layer of every array draws from (seed, path, layer) alone, so the
    values depend on no mesh and no platform.
    """

    def one(path, shape, names, init, place):
      key = zlib.crc32(jax.tree_util.keystr(path).encode())
      draw = lambda i, shape: init(np.random.default_rng([seed, key, i]), shape)
      if names[0] == "layers":
        values = np.stack([draw(i, shape[1:]) for i in range(shape[0])])
      else:
        values = draw(0, shape)
      if place is None:
        return jnp.asarray(values)
      return jax.make_array_from_callback(shape, place, lambda at: values[at])

    flat, tree = jax.tree_util.tree_flatten_with_path(self.shapes)
    names, inits = (tree.flatten_up_to(t) for t in (self.axes, self.inits))
    places = (
      [None] * len(flat) if shardings is None else tree.flatten_up_to(shardings)
    )
    return tree.unflatten(
      one(path, s.shape, *rest)
      for (path, s), *rest in zip(flat, names, inits, places, strict=True)
    )

  def apply(
    self,
    params: Params,
    *args,
    method: str | Callable[..., Any] = "__call__",
    **kwargs,
  ):
    """Calls the model, a method of it, or a function of it, with `params`."""
    module = nnx.merge(self.graphdef, params)
    if callable(method):
      return method(module, *args, **kwargs)
    return getattr(module, method)(*args, **kwargs)

  @property
  def size(self) -> int:
    """Number of parameters."""
    return sum(int(np.prod(s.shape)) for s in jax.tree.leaves(self.shapes))


def pure(make: Callable[[nnx.Rngs], nnx.Module]) -> Pure:
  """Splits the module that `make` builds, without allocating it.

  Raises:
    TypeError: a parameter without logical axes, or state that is not a
      parameter (caches and keys are arguments here).
  """
  module = nnx.eval_shape(lambda: make(nnx.Rngs(params=jax.random.key(0))))
  graphdef, params, rest = nnx.split(module, nnx.Param, ...)
  if nnx.to_flat_state(rest):
    raise TypeError(f"{rest} is not a parameter; pass it as an argument.")
  layers = dict(nnx.iter_graph(module))
  names, inits, used = {}, {}, {}
  for path, variable in nnx.to_flat_state(params):
    axis_names = variable.get_metadata().get(AXES)
    if axis_names is None or len(axis_names) != len(variable.shape):
      raise TypeError(
        f"parameter {'.'.join(map(str, path))} of shape {variable.shape} has "
        f"logical axes {axis_names}; initialize it through models.pure.axes "
        "with one name a dimension."
      )
    names[path] = tuple(axis_names)
    inits[path] = variable.get_metadata()[INIT]
    dtype = getattr(layers[path[:-1]], "dtype", None) or variable.dtype
    used[path] = jax.ShapeDtypeStruct(variable.shape, dtype)
  return Pure(
    make,
    graphdef,
    nnx.to_pure_dict(params),
    nnx.traversals.unflatten_mapping(used),
    nnx.traversals.unflatten_mapping(names),
    nnx.traversals.unflatten_mapping(inits),
  )


def fingerprint(config: str, params: Params) -> str:
  """SHA-256 of a config and parameters: equal on every machine and mesh."""
  digest = hashlib.sha256(config.encode())
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    x = np.ascontiguousarray(jax.device_get(x))
    name = jax.tree_util.keystr(path)
    digest.update(f"{name} {x.dtype} {x.shape}".encode())
    digest.update(x.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def stack(make: Callable[[nnx.Rngs], nnx.Module], n: int, rngs: nnx.Rngs):
  """`n` modules in one; every parameter gains a leading "layers" dimension."""
  keys = jax.random.split(rngs.params(), n)
  if not isinstance(keys, jax.core.Tracer):
    raise TypeError("a stack is built by models.pure.pure, which draws later.")
  module = jax.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)
  for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
    names = variable.get_metadata()[AXES]
    variable.set_metadata(**{AXES: ("layers", *names)})
  return module


ATTENTION = jax.checkpoint_policies.save_only_these_names("attn_residual")
REMAT = {
  "none": None,
  "matmuls": jax.checkpoint_policies.save_from_both_policies(
    ATTENTION, jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  "attention": ATTENTION,
  "layer": jax.checkpoint_policies.nothing_saveable,
}
FEW_LAYERS = 4  # that are not looped over


def scan_layers(layers: nnx.Module, carry: Any, *args, remat: str = "none"):
  """Runs stacked layers in order: carry = layer(carry, *args) for each.

  `remat` says what the backward pass recomputes; a key of `REMAT`.
  """

  def body(carry, layer):
    return layer(carry, *args), None

  # A few layers are run one after the other: a loop that copies what each of
  # them leaves for the backward pass takes a fifth of a small step on CPU.
  unroll = remat == "none" and len(jax.tree.leaves(layers)[0]) <= FEW_LAYERS
  if remat != "none":
    body = jax.checkpoint(body, policy=REMAT[remat], prevent_cse=False)
  return jax.lax.scan(body, carry, layers, unroll=unroll)[0]
