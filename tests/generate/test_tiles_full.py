"""Tiles of frames and chunks of time, together."""

import numpy as np

from pyramid_jax.generate.pipeline import Pipeline


def test_tiles_do_not_depend_on_how_the_clip_is_cut_in_time(workdirs):
  pipeline = Pipeline.load(workdirs.dit)
  z = np.random.default_rng(0).normal(size=(1, 5, 16, 16, 4))
  z = z.astype(np.float32)
  whole = lambda *sizes, tile=0: np.concatenate(
    list(pipeline.vae.decode_stream(np.split(z, sizes, 1), tile)), 1
  )
  tiled = whole(tile=16)
  assert tiled.shape == whole().shape == (1, 9, 32, 32, 3)
  np.testing.assert_array_equal(whole(tile=32), whole())
  np.testing.assert_allclose(
    whole(1, 2, 4, tile=16).astype(int), tiled.astype(int), atol=1
  )
  assert (tiled != whole()).any()  # each tile sees less
