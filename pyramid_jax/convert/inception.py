"""FID's Inception-v3: the released tensor names, and ours."""

import functools
import os
from collections.abc import Mapping
from typing import Any

from pyramid_jax.config import ConfigError
from pyramid_jax.convert import names, snapshot
from pyramid_jax.convert.critic import CONV2D
from pyramid_jax.convert.names import Name
from pyramid_jax.models.inception import InceptionV3
from pyramid_jax.models.pure import Params, Pure, pure
from pyramid_jax.tensors import flat

BATCH_NORM = {
  "scale": "bn.weight",
  "bias": "bn.bias",
  "mean": "bn.running_mean",
  "variance": "bn.running_var",
}
UNUSED = ("fc.", "AuxLogits.")  # the classifiers
FILE = "pt_inception-2015-12-05-6726825d.pth"


@functools.cache
def make_inception() -> Pure:
  """The network as pure functions."""
  return pure(lambda rngs: InceptionV3(rngs=rngs))


def inception_names() -> list[Name]:
  """Ours to the released file's; paths differ in their last part alone."""
  table = []
  for path in flat(make_inception().shapes):
    layer, part = path.rsplit(".", 1)
    if part == "kernel":
      table.append(Name(path, f"{layer}.weight", CONV2D))
    else:
      table.append(Name(path, f"{layer}.{BATCH_NORM[part]}"))
  return table


def inception_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """A state dict without what features do not need."""
  return {
    name: x
    for name, x in tensors.items()
    if not name.startswith(UNUSED) and not name.endswith("num_batches_tracked")
  }


def load_inception(path: str | os.PathLike) -> Params:
  """The parameters of a weight file.

  Raises:
    ConfigError: there is no such file.
    TensorFileError: it is not whole, or does more than data.
    NameTableError: it holds other weights; lists what does not fit.
  """
  if not os.path.isfile(path):
    raise ConfigError(
      f"{path} is not a file; FID needs Inception's weights, {FILE} of the "
      "pytorch-fid project."
    )
  with names.named(path):
    stored = inception_tensors(snapshot.open_tensors(path))
    return names.to_ours(inception_names(), stored, make_inception().shapes)
