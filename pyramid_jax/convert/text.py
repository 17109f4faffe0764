"""Text encoders: the released configs and tensor names, and ours.

Files differ in two ways that mean nothing: a CLIP may or may not start its
names with "text_model.", T5 has its embedding under one name or two. Both are
read; the longer, released, names are written.
"""

from collections.abc import Mapping
from typing import Any

from pyramid_jax.config import CLIPConfig, ConfigError, T5Config
from pyramid_jax.convert import names as table
from pyramid_jax.convert.names import LINEAR, Name

T5_KEYS = {
  "vocabulary": "vocab_size",
  "width": "d_model",
  "head_dim": "d_kv",
  "hidden": "d_ff",
  "layers": "num_layers",
  "heads": "num_heads",
  "buckets": "relative_attention_num_buckets",
  "max_distance": "relative_attention_max_distance",
  "epsilon": "layer_norm_epsilon",
}
CLIP_KEYS = {
  "vocabulary": "vocab_size",
  "width": "hidden_size",
  "hidden": "intermediate_size",
  "projection": "projection_dim",
  "layers": "num_hidden_layers",
  "heads": "num_attention_heads",
  "positions": "max_position_embeddings",
  "activation": "hidden_act",
  "epsilon": "layer_norm_eps",
  "end_token": "eos_token_id",
}
# Older files lack these; the defaults are the ones they were written under.
OPTIONAL = ("relative_attention_max_distance", "eos_token_id")
GATED = "gated-gelu"

Tensors = Mapping[str, Any]


def t5_config(values: Mapping[str, Any], dtype: str = "float32") -> T5Config:
  """The encoder that a config.json describes.

  Raises:
    ConfigError: a size is missing, or it is not the gated T5 v1.1.
  """
  if values.get("feed_forward_proj") != GATED:
    raise ConfigError(
      f"T5 feed_forward_proj is {values.get('feed_forward_proj')!r}; only "
      f"{GATED!r} (T5 v1.1) is supported."
    )
  return T5Config(**_sizes("T5", T5_KEYS, values), dtype=dtype)


def clip_config(
  values: Mapping[str, Any], dtype: str = "float32"
) -> CLIPConfig:
  """The encoder, with its projection, that a config.json describes.

  Raises:
    ConfigError: a size is missing.
  """
  return CLIPConfig(**_sizes("CLIP", CLIP_KEYS, values), dtype=dtype)


def _sizes(model: str, keys: Mapping[str, str], values: Mapping) -> dict:
  missing = [t for t in keys.values() if t not in values and t not in OPTIONAL]
  if missing:
    raise ConfigError(
      f"the {model} config.json lacks {', '.join(missing)}; take the one that "
      "was saved with the weights."
    )
  return {ours: values[t] for ours, t in keys.items() if t in values}


def t5_json(config: T5Config) -> dict[str, Any]:
  """The config.json of an encoder of ours."""
  return {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "feed_forward_proj": GATED,
    "is_encoder_decoder": True,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    **{torch: getattr(config, ours) for ours, torch in T5_KEYS.items()},
  }


def clip_json(config: CLIPConfig) -> dict[str, Any]:
  """The config.json of an encoder of ours."""
  values = {t: getattr(config, ours) for ours, t in CLIP_KEYS.items()}
  projected = config.projection > 0
  return {
    "architectures": ["CLIPTextModel" + "WithProjection" * projected],
    "model_type": "clip_text_model",
    **values,
    "projection_dim": config.projection or config.width,
    "bos_token_id": config.vocabulary - 2,
  }


def _dense(ours: str, torch: str, *, bias: bool) -> list[Name]:
  kernel = Name(f"{ours}.kernel", f"{torch}.weight", LINEAR)
  return [kernel, Name(f"{ours}.bias", f"{torch}.bias")] if bias else [kernel]


def t5_names(config: T5Config) -> list[Name]:
  """The name table of a T5 encoder."""
  torch = "encoder.block.{}.layer."
  layer = [
    Name("blocks.attention_norm.scale", torch + "0.layer_norm.weight"),
    Name("blocks.mlp_norm.scale", torch + "1.layer_norm.weight"),
  ]
  for ours, theirs in (
    ("attention.q", "0.SelfAttention.q"),
    ("attention.k", "0.SelfAttention.k"),
    ("attention.v", "0.SelfAttention.v"),
    ("attention.o", "0.SelfAttention.o"),
    ("mlp.gate", "1.DenseReluDense.wi_0"),
    ("mlp.up", "1.DenseReluDense.wi_1"),
    ("mlp.down", "1.DenseReluDense.wo"),
  ):
    layer += _dense(f"blocks.{ours}", torch + theirs, bias=False)
  return [
    Name("embed.embedding", "shared.weight"),
    Name(
      "distance_bias",
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    *table.stacked(layer, range(config.layers)),
    Name("norm.scale", "encoder.final_layer_norm.weight"),
  ]


def clip_names(config: CLIPConfig) -> list[Name]:
  """The name table of a CLIP text encoder."""
  torch = "text_model.encoder.layers.{}."
  layer = []
  for ours, theirs in (
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.o", "self_attn.out_proj"),
    ("up", "mlp.fc1"),
    ("down", "mlp.fc2"),
  ):
    layer += _dense(f"blocks.{ours}", torch + theirs, bias=True)
  for ours, theirs in (("attention", "1"), ("mlp", "2")):
    layer += _norm(f"blocks.{ours}_norm", f"{torch}layer_norm{theirs}")
  result = [
    Name("embed.embedding", "text_model.embeddings.token_embedding.weight"),
    Name("positions", "text_model.embeddings.position_embedding.weight"),
    *table.stacked(layer, range(config.layers)),
    *_norm("norm", "text_model.final_layer_norm"),
  ]
  if config.projection:
    result += _dense("projection", "text_projection", bias=False)
  return result


def _norm(ours: str, torch: str) -> list[Name]:
  return [
    Name(f"{ours}.scale", f"{torch}.weight"),
    Name(f"{ours}.bias", f"{torch}.bias"),
  ]


def t5_tensors(config: T5Config, tensors: Tensors) -> Tensors:
  """A T5's tensors under their released names, without tied copies."""
  del config
  copy = "encoder.embed_tokens.weight"  # tied to the shared embedding
  result = dict(tensors)
  if copy in result:
    result.setdefault("shared.weight", result[copy])
    del result[copy]
  return result


def clip_tensors(config: CLIPConfig, tensors: Tensors) -> Tensors:
  """A CLIP's tensors under their released names.

  A projection that the config does without is left out, and so are the numbers
  of the positions.
  """
  prefixes = ("text_model.", "text_projection.")
  result = {
    name if name.startswith(prefixes) else f"text_model.{name}": x
    for name, x in tensors.items()
  }
  result.pop("text_model.embeddings.position_ids", None)
  if not config.projection:
    result.pop("text_projection.weight", None)
  return result
