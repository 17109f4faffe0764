"""The SD3-type multimodal diffusion transformer on packed rows.

Two streams through all blocks; positions in space are sin-cos features that are
added to the patches, the frame is a rotary angle.

Legend: B rows, L latent tokens, D width, K head dim.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from pyramid_jax.config import DiTConfig
from pyramid_jax.models import positions
from pyramid_jax.models.pure import scan_layers, stack
from pyramid_jax.models.streams import Block, Shared
from pyramid_jax.models.transformer import Rows, Streams, Transformer


class MMDiT(Transformer):
  """`config.layers` blocks, the last without text output."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    super().__init__(config, rngs=rngs)
    if config.layers > 1:
      self.blocks = stack(
        lambda rngs: Block(config, rngs=rngs), config.layers - 1, rngs
      )
    self.last_block = Block(config, closing=True, rngs=rngs)

  def place(self, rows: Rows) -> jax.Array:
    c = self.config
    table = positions.sincos_table(
      c.table_size, c.heads * c.head_dim // 2, c.table_base
    )
    return positions.sincos_2d(rows["yx"], jnp.asarray(table))

  def rotary(self, rows: Rows) -> tuple[jax.Array, jax.Array]:
    return positions.rotary(rows["frame"], self.config.head_dim)

  def run(self, carry: Streams, row: Shared) -> jax.Array:
    if self.config.layers > 1:
      carry = scan_layers(self.blocks, carry, row, remat=self.config.remat)
    return self.last_block(carry, row)[0]
