"""What a VAE makes of held-out clips, while it is trained and afterwards."""

from collections.abc import Iterator

import jax
import numpy as np

from pyramid_jax import sharding
from pyramid_jax.data.clips import TrainingClips
from pyramid_jax.evals import pictures, pixels
from pyramid_jax.models import vae as vae_lib
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.train.metrics import say

PICTURED = 4  # clips of a picture


class HeldOut:
  """Reconstructions of held-out clips by one compiled program.

  All processes of a run call it together and get the same.

  Attributes:
    program: (params, clips) -> what they become, jitted.
  """

  def __init__(
    self, mesh: jax.sharding.Mesh, model: Pure, clips: TrainingClips
  ):
    self.mesh, self.clips = mesh, clips
    with jax.set_mesh(mesh):
      self.rows = sharding.parts("batch")

    def reconstruct(params: Params, video: jax.Array) -> jax.Array:
      moments = model.apply(params, video, method="encode")
      mean = vae_lib.posterior(moments).mean
      return model.apply(params, mean, method="decode")

    # whole on every device, so that each process reads the pixels of all
    whole = sharding.sharding(mesh)
    self.program = jax.jit(reconstruct, out_shardings=whole)

  def reconstructions(
    self, params: Params, count: int
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(clip, what the posterior's mean decodes to), at most `count`."""
    held = self.clips.heldout(count)
    mine = sharding.local_rows(self.mesh, self.rows)
    for start in range(0, len(held), self.rows):
      part = held[start : start + self.rows]
      video = np.stack([*part, *[part[-1]] * (self.rows - len(part))])
      placed = sharding.place_batch(self.mesh, video[mine], self.rows)
      found = np.asarray(self.program(params, placed))
      yield from zip(part, found[: len(part)], strict=True)

  def picture(self, params: Params) -> np.ndarray:
    """A few clips, their reconstructions and the errors; uint8 [H, W, 3]."""
    pairs = self.reconstructions(params, PICTURED)
    return pictures.comparison(*zip(*pairs, strict=True))

  def report(self, params: Params, count: int) -> dict[str, float]:
    """Says and returns means over the clips: psnr, ssim; with several frames
    also flicker and, of the clips themselves, flicker_original.
    """
    found = [
      {
        "psnr": pixels.psnr(y, x),
        "ssim": pixels.ssim(y, x),
        "flicker": pixels.flicker(y),
        "flicker_original": pixels.flicker(x),
      }
      for x, y in self.reconstructions(params, count)
    ]
    scores = {k: float(np.mean([s[k] for s in found])) for k in found[0]}
    text = (
      f"PSNR on {len(found)} held-out clips: {scores['psnr']:.2f} dB, SSIM "
      f"{scores['ssim']:.3f}"
    )
    if self.clips.last.frames == 1:
      del scores["flicker"], scores["flicker_original"]
    else:
      text += (
        f", flicker {scores['flicker']:.4f} (the clips' own: "
        f"{scores['flicker_original']:.4f})"
      )
    say(text)
    return scores
