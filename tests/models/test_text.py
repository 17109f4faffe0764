"""The two ways of combining text encoders give the reference's numbers."""

import dataclasses

import jax
import pytest

from pyramid_jax.config import ConfigError, T5Config
from pyramid_jax.convert.models import CLIP_ENCODER, T5_ENCODER
from pyramid_jax.models.pure import pure
from pyramid_jax.models.text import (
  CLIP_G,
  CLIP_L,
  TextConfigs,
  TextModel,
  combine,
)
from tests import reference
from tests.models.text_reference import FILES
from tests.reference import max_error

UNPROJECTED = dataclasses.replace(CLIP_L, projection=0)
NAMES = {"sd3": ("clip_l", "clip_g"), "flux": ("clip_l",)}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_combination_is_the_references(kind, file):
  ref = reference.load(file)
  sizes = ref.config
  configs = combine(
    kind,
    T5_ENCODER.read_config(sizes["t5"]),
    [CLIP_ENCODER.read_config(sizes[name]) for name in NAMES[kind]],
  )
  model = pure(lambda rngs: TextModel(configs, rngs=rngs))
  params = {
    name: CLIP_ENCODER.from_torch(config, ref.under(f"param/{name}/"))
    for name, config in zip(NAMES[kind], configs.clips, strict=True)
  }
  params["t5"] = T5_ENCODER.from_torch(configs.t5, ref.under("param/t5/"))
  clips = [ref[f"in/{name}_ids"] for name in NAMES[kind]]
  mask = ref[f"out/{kind}/attention_mask"]
  features, pooled = jax.jit(model.apply)(
    params, ref["in/t5_ids"], mask, *clips
  )
  for key, value in (("prompt_embeds", features), ("pooled", pooled)):
    error = max_error(value, ref[f"out/{kind}/{key}"])
    print(f"{kind}/{key}: {error:.1e} of max")
    assert error < 1e-5  # 2e-6 measured; float32 sums in another order
  assert pooled.shape[1] == configs.pooled


def test_full_size_parameters_and_widths():
  sd3 = TextConfigs()
  assert sd3.pooled == 2048
  assert pure(lambda rngs: TextModel(sd3, rngs=rngs)).size == 5_580_620_800
  flux = combine("flux", T5Config(), [CLIP_L])
  assert flux.pooled == 768
  assert pure(lambda rngs: TextModel(flux, rngs=rngs)).size == 4_885_371_136


@pytest.mark.parametrize(
  ("kind", "clips", "message"),
  [
    ("sd2", (CLIP_L,), "'sd2' is unknown; use one of sd3, flux"),
    ("sd3", (CLIP_L,), "takes 2 CLIP configs, not 1"),
    ("flux", (CLIP_L,), r"projections \[768\]"),
    (
      "sd3",
      (dataclasses.replace(CLIP_L, projection=0), CLIP_G),
      "sd3 projects",
    ),
  ],
)
def test_what_does_not_combine_is_refused(kind, clips, message):
  with pytest.raises(ConfigError, match=message):
    TextConfigs(kind, T5Config(), clips)
