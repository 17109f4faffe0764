"""The tables that tell the kernels where to go, against the dense mask."""

import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce

from pyramid_jax.attention import blocks, gpu, tiles, tpu
from pyramid_jax.attention.tiles import GPUTile, TPUTiles
from tests.attention import packings

J = 512
TILES = [(64, 64), (32, 128)]


def packed(seed):
  """Ranges of random rows as arrays, and the pairs that they hold."""
  rng = np.random.default_rng(seed)
  rows = [packings.packing(rng, J, 5, padding=37) for _ in range(3)]
  segment, frame = (np.stack(a) for a in zip(*rows, strict=True))
  start, end = packings.key_ranges(segment, frame)
  return jnp.asarray(start), jnp.asarray(end), packings.pairs(start, end, J)


def in_blocks(pairs, query, key, how=np.any):
  """`how` over the pairs of each two blocks, [B, U, V]."""
  return reduce(pairs, "b (u q) (v k) -> b u v", how, q=query, k=key)


@pytest.mark.parametrize("query, key", TILES)
@pytest.mark.parametrize("seed", range(4))
def test_splash_visits_the_blocks_that_hold_a_pair(seed, query, key):
  start, end, pairs = packed(seed)
  met = in_blocks(pairs, query, key)
  assert 0 < met.sum() < met.size / 2
  for axis in (1, 2):
    tiles = TPUTiles(query, key, key)
    rows = tpu._visits(start, end, J, tiles, axis)
    visited = np.concatenate([row.block_mask for row in rows])
    np.testing.assert_array_equal(visited, met)
    # and holds no others: its own, or one that the same line visits
    held = np.concatenate([row.data_next for row in rows])
    place = np.indices(met.shape)[axis]
    np.testing.assert_array_equal(held[met], place[met])
    of_line = np.take_along_axis(met, held.astype(int), axis)
    np.testing.assert_array_equal(of_line | ~met.any(axis, keepdims=True), True)


@pytest.mark.parametrize("query, key", TILES)
@pytest.mark.parametrize("seed", range(4))
def test_the_gpu_kernels_walk_the_blocks_that_hold_a_pair(seed, query, key):
  start, end, pairs = packed(seed)
  met, whole = (in_blocks(pairs, query, key, f) for f in (np.any, np.all))
  tile = GPUTile(query, key, 4, 1)
  walk = np.asarray(gpu._walk_keys(start, end, J, tile))
  first, from_, to, last = walk.reshape(3, -1, 4).transpose(2, 0, 1)[..., None]
  place = np.arange(J // key)
  np.testing.assert_array_equal((place >= first) & (place < last), met)
  np.testing.assert_array_equal((place >= from_) & (place < to), whole)
  walk = np.asarray(gpu._walk_queries(start, end, J, tile))
  first, last = walk.reshape(3, -1, 2).transpose(2, 0, 1)[:, :, None]
  place = np.arange(J // query)[:, None]
  np.testing.assert_array_equal((place >= first) & (place < last), met)


def test_text_queries_alone_walk_a_few_blocks_that_hold_no_pair():
  """Their segments' latent tokens, which they leave out, lie between."""
  frames, text, tokens = [240] * 6 + [960, 2880], 60, 16384
  segment = np.repeat([1, 2, 3], text + sum(frames))
  frame = np.repeat(np.arange(8), [text + frames[0], *frames[1:]])
  start, end = packings.key_ranges(
    np.pad(segment, (0, tokens - len(segment)))[None],
    np.pad(np.tile(frame, 3), (0, tokens - len(segment)))[None],
  )
  is_text = np.zeros(tokens, bool)
  for first in range(0, len(segment), text + sum(frames)):
    is_text[first : first + text] = True
  tile = tiles.GPU.forward

  def visits(queries):
    """Blocks of keys that a stream's queries walk over, and that they meet."""
    ranges = [blocks.pad_tokens(x[:, queries], tile.query)
              for x in (start, end)]  # fmt: skip
    walk = gpu._walk_keys(*ranges, tokens, tile).reshape(-1, 4)
    meet = blocks.meet(*ranges, tokens, tile.query, tile.key)
    return int((walk[:, 3] - walk[:, 0]).sum()), int(meet.sum())

  latent, latent_met = visits(~is_text)
  of_text, text_met = visits(is_text)
  assert latent == latent_met
  # 178 for 23 that hold a pair: beside the row's 7307 that is 2%
  assert (of_text, text_met, latent) == (178, 23, 7307)


def test_ranges_of_no_order_meet_in_their_blocks_alone():
  """As text queries do, whose segments' latent tokens lie between."""
  start = jnp.asarray([[0, 200, 64, 0]])
  end = jnp.asarray([[10, 210, 65, 0]])
  np.testing.assert_array_equal(
    blocks.meet(start, end, 256, 4, 64), [[[1, 1, 0, 1]]]
  )
  np.testing.assert_array_equal(
    blocks.meet(start, end, 256, 2, 64), [[[1, 0, 0, 1], [0, 1, 0, 0]]]
  )
