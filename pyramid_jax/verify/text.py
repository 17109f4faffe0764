"""Text encoders: T5, both CLIPs, and the two ways of combining them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.convert.models import CLIP_ENCODER, T5_ENCODER
from pyramid_jax.models.text import CLIPS, combine
from pyramid_jax.verify.file import Reference
from pyramid_jax.verify.options import Options
from pyramid_jax.verify.report import Report

OUTPUT = 1e-4
NAMES = ("clip_l", "clip_g")


def run(file: Reference, report: Report, options: Options):
  """Compares features, vectors and, layer by layer, what leads to them."""
  with options.on_mesh():
    t5, t5_config, t5_params = _load(file, "t5", T5_ENCODER, options)
    ids, mask = file["in/t5_ids"], file["in/t5_mask"]
    _layers(report, options, "t5", t5, t5_params, ids, mask)
    apply = options.jit(t5.apply)
    features = apply(t5_params, ids, mask)
    report.compare("out/t5/last_hidden_state", features, OUTPUT)
    if "out/t5/last_hidden_state_nomask" in file:
      whole = apply(t5_params, ids, np.ones_like(mask))
      report.compare("out/t5/last_hidden_state_nomask", whole, OUTPUT)
    configs, pooled = {}, {}
    for name in NAMES:
      if name not in file.config:
        continue
      clip, configs[name], params = _load(file, name, CLIP_ENCODER, options)
      ids = file[f"in/{name}_ids"]
      _layers(report, options, name, clip, params, ids)
      last, projected = options.jit(clip.apply)(params, ids)
      report.compare(f"out/{name}/last_hidden_state", last, OUTPUT)
      report.compare(f"out/{name}/text_embeds", projected, OUTPUT)
      pooled[name] = projected
      bare = dataclasses.replace(configs[name], projection=0)
      rest = {k: x for k, x in params.items() if k != "projection"}
      pooled[f"{name} unprojected"] = options.jit(
        CLIP_ENCODER.make(bare).apply
      )(rest, ids)[1]
    for kind, clips in CLIPS.items():
      if f"out/{kind}/pooled" not in file:
        continue
      names = NAMES[:clips]
      sizes = combine(kind, t5_config, [configs[n] for n in names])
      tag = "" if kind == "sd3" else " unprojected"
      both = jnp.concatenate([pooled[n + tag] for n in names], -1)
      assert both.shape[-1] == sizes.pooled
      report.compare(f"out/{kind}/pooled", both, OUTPUT)
      report.compare(f"out/{kind}/prompt_embeds", features, OUTPUT)
      report.compare(f"out/{kind}/attention_mask", mask, 0.0, 1)


def _load(file, name, encoder, options):
  config = encoder.read_config(file.config[name])
  params = encoder.from_torch(config, file.under(f"param/{name}/"))
  config = dataclasses.replace(config, dtype=options.dtype)
  model = encoder.make(config)
  return model, config, options.place(model, params)


def _layers(report, options, name, model, params, *inputs):
  """Compares the residual stream before every layer and after the last."""
  if not report.wants(f"mid/{name}/"):
    return
  method = _t5_stream if name == "t5" else _clip_stream
  apply = options.jit(functools.partial(model.apply, method=method))
  for i, x in enumerate(apply(params, *inputs)):
    report.middle(f"mid/{name}/hidden{i}", lambda x=x: x)


def _clip_stream(module, ids_BQ) -> list[jax.Array]:
  x = module.embed(ids_BQ) + module.positions[: ids_BQ.shape[1]]
  return _stream(module.blocks, module.config.layers, x)


def _t5_stream(module, ids_BM, mask_BM) -> list[jax.Array]:
  """The last is normalised, as the reference's is."""
  x = module.embed(ids_BM).astype(jnp.float32)
  bias, mask = module.bias(ids_BM.shape[1]), (mask_BM > 0)[:, None, None, :]
  stream = _stream(module.blocks, module.config.layers, x, bias, mask)
  return [*stream[:-1], module(ids_BM, mask_BM)]


def _stream(blocks, layers: int, x, *args) -> list[jax.Array]:
  result = [x]
  for i in range(layers):
    block = jax.tree.map(lambda a, i=i: a[i], blocks)
    result.append(block(result[-1], *args))
  return result
