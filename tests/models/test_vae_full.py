"""Every array that the VAE's reference files hold, whole and in chunks."""

import functools
import re

import jax
import numpy as np
import pytest

from pyramid_jax.convert import vae as table
from pyramid_jax.convert.names import to_ours
from pyramid_jax.generate.trained_vae import make_model
from tests import reference
from tests.models.test_vae import TOLERANCE, last

SINGLE = "vae_blocks", "vae_pipeline"  # compared elsewhere, by their own keys


@functools.cache
def load(name):
  """File, model and parameters."""
  file = reference.load(name)
  config = table.config_from_torch(file.config["model"])
  weights = reference.load(file.config["weights"].removesuffix(".npz"))
  model = make_model(config)
  tensors = weights.under("param/")
  return file, model, to_ours(table.names(config), tensors, model.shapes)


def cases():
  """(file, clip, method, window) of every recorded round; window 0: whole."""
  for name in reference.names("vae"):
    for key in reference.load(name).arrays:
      pattern = r"out/(?:(.+)/)?(moments|decode)(?:_w(\d+))?"
      if name not in SINGLE and (found := re.fullmatch(pattern, key)):
        clip, what, window = found.groups()
        method = {"moments": "encode", "decode": "decode"}[what]
        yield name, clip or "", method, int(window or 0)


@functools.cache
def apply(name, method):
  _, model, _ = load(name)
  return jax.jit(
    lambda params, x, cache: model.apply(
      params, x, cache, method=f"{method}_chunk"
    )
  )


@pytest.mark.parametrize("name, clip, method, window", list(cases()))
def test_recorded_rounds(name, clip, method, window):
  file, _, params = load(name)
  letter, what = {"encode": "x/moments", "decode": "z/decode"}[method].split(
    "/"
  )
  prefix = f"{clip}/" if clip else ""
  x = last(file[f"in/{prefix}{letter}"])
  ends = range(window + 1, x.shape[1], window) if window else []
  cache, parts = None, []
  for chunk in np.split(x, ends, 1):
    y, cache = apply(name, method)(params, chunk, cache)
    parts.append(y)
  key = f"out/{prefix}{what}" + (f"_w{window}" if window else "")
  error = reference.max_error(np.concatenate(parts, 1), last(file[key]))
  print(f"{name} {key}: {error:.1e} of max")
  assert error < TOLERANCE
