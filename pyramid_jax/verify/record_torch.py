"""Records reference files from a PyTorch run of the released models.

Stands alone: it needs torch and numpy, nothing of this package, so it can be
copied beside the PyTorch code. `pyramid-verify` reads what it writes.

  recorder = Recorder(pipeline.dit, "dit.npz", weights="snapshot/folder")
  with recorder:                       # every call of the module is recorded
    pipeline.generate(...)

  recorder.loss("step", targets, sample=..., timestep_ratio=..., ...)
  record_vae(pipeline.vae, "vae.npz", x=pixels, z=latents, weights="vae_w.npz")

Run it in float32: in bfloat16 the reference itself is off by about 1e-2.
"""

import json
import os

import numpy as np
import torch

ARGUMENTS = (
  "sample",
  "timestep_ratio",
  "encoder_hidden_states",
  "encoder_attention_mask",
  "pooled_projections",
)
# what the released classes call the outputs of their parts
PARTS = {
  "time_text_embed": "temb",
  "context_embedder": "context",
  "norm_out": "norm_out",
  "proj_out": "proj_out",
}


def to_numpy(x):
  """A tensor as numpy; floating point as float32, integers as int64."""
  x = x.detach().cpu()
  return (x.float() if x.is_floating_point() else x.long()).numpy()


def save(path, arrays, config):
  """Writes the file beside and renames it when it is whole."""
  beside = f"{path}.partial.npz"
  np.savez_compressed(beside, config=json.dumps(config), **arrays)
  os.replace(beside, path)


class Recorder:
  """Records calls of a transformer, MM-DiT or miniFLUX.

  Args:
    module: of the released classes.
    path: of the file, .npz.
    weights: "" stores the weights in the file; else the folder of the
      snapshot's component, to which the file then points.
    parts: also what every block gives.
    limit: calls recorded; later ones pass unrecorded.
  """

  def __init__(self, module, path, *, weights="", parts=False, limit=8):
    self.module, self.path, self.limit = module, path, limit
    self.arrays, self.runs, self.parts = {}, [], parts
    model = {
      k: v for k, v in dict(module.config).items() if not k.startswith("_")
    }
    flux = "num_single_layers" in model
    self.config = {"kind": "flux" if flux else "mmdit", "model": model}
    if weights:
      self.config["snapshot"] = os.path.abspath(weights)
    else:
      for name, x in module.state_dict().items():
        self.arrays[f"param/{name}"] = to_numpy(x)
    self._forward = None

  def __enter__(self):
    self._forward = self.module.forward
    self.module.forward = self._recorded
    return self

  def __exit__(self, kind, error, trace):
    self.module.forward = self._forward
    if kind is None:
      self.write()

  def write(self):
    """Writes what was recorded so far."""
    config = {**self.config, "runs": [{"name": name} for name in self.runs]}
    save(self.path, self.arrays, config)

  def loss(self, name, targets, **arguments):
    """Records a call, its mean squared error and all gradients; writes.

    The loss is the mean over each sample's values, then over samples; `targets`
    has one tensor a column.
    """
    self.module.zero_grad(set_to_none=True)
    outputs = self._call(name, self.module, **arguments)
    errors = [
      ((out.float() - target.float()) ** 2).flatten(1).mean(1)
      for out, target in zip(outputs, targets, strict=True)
    ]
    loss = torch.cat(errors).mean()
    loss.backward()
    self.arrays[f"out/{name}/loss"] = to_numpy(loss)
    for i, target in enumerate(targets):
      self.arrays[f"in/{name}/target/s{i}"] = to_numpy(target)
    for key, p in self.module.named_parameters():
      if p.grad is not None:
        self.arrays[f"grad/{name}/{key}"] = to_numpy(p.grad)
    self.write()
    return loss

  def _recorded(self, *args, **kwargs):
    arguments = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
    if len(self.runs) >= self.limit:
      return self._forward(**arguments)
    return self._call(f"call{len(self.runs):02d}", self._forward, **arguments)

  def _call(self, name, forward, **arguments):
    prefix = f"in/{name}/"
    for i, clips in enumerate(arguments["sample"]):
      clips = clips if isinstance(clips, (list, tuple)) else [clips]
      for j, clip in enumerate(clips):
        self.arrays[f"{prefix}sample/s{i}/c{j}"] = to_numpy(clip)
    self.arrays[f"{prefix}timestep"] = to_numpy(arguments["timestep_ratio"])
    for key in ARGUMENTS[2:]:
      self.arrays[prefix + key] = to_numpy(arguments[key])
    handles = self._hooks(f"mid/{name}") if self.parts else []
    try:
      outputs = forward(**arguments)
    finally:
      for handle in handles:
        handle.remove()
    for i, out in enumerate(outputs):
      self.arrays[f"out/{name}/s{i}"] = to_numpy(out)
    self.runs.append(name)
    return outputs

  def _hooks(self, prefix):
    """Keeps what the parts of the module give."""

    def keep(key):
      def hook(module, args, output):
        if isinstance(output, tuple):  # of a block: text, latent
          text, latent = output
          if text is not None:
            self.arrays[f"{prefix}/{key}/encoder_hidden"] = to_numpy(text)
          self.arrays[f"{prefix}/{key}/hidden"] = to_numpy(latent)
        elif key.startswith("single"):
          self.arrays[f"{prefix}/{key}/hidden"] = to_numpy(output)
        else:
          self.arrays[f"{prefix}/{key}"] = to_numpy(output)

      return hook

    found = []
    for name, part in self.module.named_children():
      if name in PARTS:
        found.append((PARTS[name], part))
      elif name == "transformer_blocks":
        found += [(f"block{i}", block) for i, block in enumerate(part)]
      elif name == "single_transformer_blocks":
        found += [(f"single_block{i}", block) for i, block in enumerate(part)]
    return [part.register_forward_hook(keep(key)) for key, part in found]


def record_vae(vae, path, *, x=None, z=None, weights):
  """Records moments of pixels and pixels of latents of a causal video VAE.

  Args:
    vae: of the released class.
    path: of the file, .npz.
    x: pixels [B, 3, T, H, W] in [-1, 1], or None.
    z: latents [B, C, t, h, w], or None.
    weights: another .npz in the same folder; written if it is not there.
  """
  folder = os.path.dirname(os.path.abspath(path))
  beside = os.path.join(folder, os.path.basename(weights))
  model = {k: v for k, v in dict(vae.config).items() if not k.startswith("_")}
  if not os.path.exists(beside):
    state = {f"param/{k}": to_numpy(v) for k, v in vae.state_dict().items()}
    save(beside, state, {"model": model})
  arrays = {}
  with torch.no_grad():
    if x is not None:
      q = vae.encode(x).latent_dist
      moments = torch.cat([q.mean, q.logvar], 1)
      arrays |= {"in/x": to_numpy(x), "out/moments": to_numpy(moments)}
    if z is not None:
      pixels = vae.decode(z).sample
      arrays |= {"in/z": to_numpy(z), "out/decode": to_numpy(pixels)}
  save(path, arrays, {"model": model, "weights": os.path.basename(weights)})
