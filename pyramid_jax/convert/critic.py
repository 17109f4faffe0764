"""LPIPS and the patch discriminators: the released tensor names, and ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyramid_jax.config import AdversaryConfig, LPIPSConfig
from pyramid_jax.convert.names import Name, NameTableError
from pyramid_jax.models import lpips

CONV2D = "o i h w -> h w i o"
CONV3D = "o i t h w -> t h w i o"
BUFFERS = {
  f"scaling_layer.{name}": np.array(values, np.float32).reshape(1, 3, 1, 1)
  for name, values in (("shift", lpips.SHIFT), ("scale", lpips.SCALE))
}


def lpips_config(tensors: Mapping[str, Any]) -> LPIPSConfig:
  """The sizes that a state dict has, in float32.

  Raises:
    NameTableError: it is not that of an LPIPS on VGG16.
  """
  names = [f"lin{i}.model.1.weight" for i in range(len(lpips.CONVOLUTIONS))]
  if missing := [name for name in names if name not in tensors]:
    raise NameTableError(
      f"these are not the weights of LPIPS: {', '.join(missing)} missing. A "
      "state dict of the whole is needed, VGG16's features (net.slice1.0.weight"
      " ...) and the linear layers."
    )
  channels = tuple(tensors[name].shape[1] for name in names)
  return LPIPSConfig(channels, dtype="float32")


def lpips_names(config: LPIPSConfig) -> list[Name]:
  """Ours to the released code's; VGG16 keeps torchvision's numbers."""
  table, number = [], 0
  for i, count in enumerate(lpips.CONVOLUTIONS):
    for j in range(count):
      ours, torch = f"levels.{i}.{j}", f"net.slice{i + 1}.{number}"
      table += _convolution(ours, torch, CONV2D)
      number += 2  # its ReLU has a number too
    number += 1  # pooling
    table.append(Name(f"weights.{i}", f"lin{i}.model.1.weight", "1 c 1 1 -> c"))
  return table


def lpips_tensors(
  config: LPIPSConfig, tensors: Mapping[str, Any]
) -> dict[str, Any]:
  """A state dict without its constants.

  Raises:
    NameTableError: constants that are not ours.
  """
  rest = dict(tensors)
  for name, ours in BUFFERS.items():
    theirs = rest.pop(name, None)
    if theirs is not None and not np.allclose(np.asarray(theirs), ours):
      raise NameTableError(
        f"{name} is {np.ravel(theirs)}, LPIPS on VGG16 has {ours.ravel()}."
      )
  return rest


def discriminator_config(tensors: Mapping[str, Any]) -> AdversaryConfig:
  """The sizes that a state dict has, in float32."""
  first = tensors["main.0.weight"]
  kind = "image" if len(first.shape) == 4 else "clip"
  layers = sum(name.endswith(".weight") for name in tensors) - 2
  return AdversaryConfig(kind, first.shape[0], layers, "float32")


def discriminator_names(config: AdversaryConfig) -> list[Name]:
  """Ours to the released code's."""
  layout = CONV2D if config.kind == "image" else CONV3D
  # after the first convolution an activation, after others a norm as well
  numbers = [0, *(2 + 3 * i for i in range(config.layers + 1))]
  table = []
  for i, number in enumerate(numbers):
    table += _convolution(f"layers.{i}", f"main.{number}", layout)
  return table


def _convolution(ours: str, torch: str, layout: str) -> list[Name]:
  return [
    Name(f"{ours}.kernel", f"{torch}.weight", layout),
    Name(f"{ours}.bias", f"{torch}.bias"),
  ]
