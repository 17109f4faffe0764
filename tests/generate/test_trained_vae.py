"""Latents to frames and back, as the released pipeline does it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pyramid_jax import sharding
from pyramid_jax.config import Config, MeshConfig, from_dict
from pyramid_jax.convert import vae as table
from pyramid_jax.convert.names import to_ours
from pyramid_jax.data.latents import Statistics
from pyramid_jax.generate.export import to_uint8
from pyramid_jax.generate.trained_vae import TrainedVAE, make_model
from pyramid_jax.models.vae import ClipShapeError, posterior
from tests import tiny
from tests.models.test_vae import RELEASED, last
from tests.reference import load, max_error

PIPELINES = ["pyramid_mmdit", "pyramid_flux"]


def statistics(pipeline):
  return Statistics(*load("vae_pipeline")[f"out/{pipeline}/factors"].tolist())


def trained(config, statistics):
  params = to_ours(
    table.names(RELEASED),
    load("vae_weights").under("param/"),
    make_model(RELEASED).shapes,
  )
  mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
  return TrainedVAE(config, params, statistics, mesh=mesh)


@pytest.mark.parametrize(
  "kind, pipeline", list(zip(["video", "image"], PIPELINES, strict=True))
)
def test_frames_are_those_of_the_released_pipeline(pipeline, kind):
  file = load("vae_pipeline")
  vae = trained(RELEASED, statistics(pipeline))
  z = last(file[f"in/{kind}_latents"])
  # in chunks of two latents, as pyramid-generate streams them
  chunks = [z[:, i : i + 2] for i in range(0, z.shape[1], 2)]
  frames = np.concatenate(list(vae.decode_stream(chunks)), 1)[0]
  desired = file[f"out/{pipeline}/{kind}_uint8_savemem1"]
  away = np.abs(frames.astype(int) - desired)
  # a value between two of 256 levels may round either way
  assert away.max() <= 1 and (away > 0).mean() < 1e-3, away.max()


def test_latents_are_draws_by_the_name_of_their_clip_or_means():
  clip = np.random.default_rng(0).integers(256, size=(9, 16, 16, 3))
  clip = clip.astype(np.uint8)
  mean = dataclasses.replace(RELEASED, sample=False)
  encode = lambda config, *ids: trained(config, Statistics()).encode(
    [clip] * len(ids), ids, window=8
  )
  a, b, again = encode(RELEASED, "a", "b", "a")
  np.testing.assert_array_equal(a, again)
  assert np.abs(a - b).max() > 1e-3
  first, second = encode(mean, "a", "b")
  np.testing.assert_array_equal(first, second)
  apply = jax.jit(functools.partial(make_model(mean).apply, method="encode"))
  moments = apply(
    trained(mean, Statistics()).params,
    (clip / 127.5 - 1).astype(np.float32)[None],
  )
  q = posterior(moments)
  assert max_error(first, np.asarray(q.mean[0])) < 1e-5
  assert 0.8 < np.std((a - q.mean[0]) / q.std[0]) < 1.2


def test_reconstructed_clips_are_decoded_means_of_their_latents():
  rng = np.random.default_rng(1)
  clips = rng.integers(256, size=(3, 17, 16, 16, 3)).astype(np.uint8)
  config = dataclasses.replace(RELEASED, sample=False)
  vae = trained(config, Statistics(0.1, 2.0, -0.2, 3.0))
  frames = vae.reconstruct(list(clips), ["a", "b", "c"], batch=2, window=8)
  apply = jax.jit(make_model(config).apply, static_argnames="method")
  moments = apply(vae.params, clips / np.float32(127.5) - 1, method="encode")
  desired = to_uint8(
    apply(vae.params, posterior(moments).mode, method="decode")
  )
  away = np.abs(np.stack(frames).astype(int) - desired)
  # a value between two of 256 levels may round either way
  assert away.max() <= 1 and (away > 0).mean() < 1e-3, away.max()


def test_a_size_costs_two_programs_whatever_the_lengths():
  config = from_dict(Config, tiny.get_config()).vae
  params = make_model(config).init()
  mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
  vae = TrainedVAE(config, params, Statistics(), mesh=mesh)
  rng = np.random.default_rng(0)
  clips = [
    rng.integers(256, size=(n, 8, 8, 3), dtype=np.uint8) for n in (9, 1, 5, 7)
  ]
  ids = list("abcd")
  together = vae.encode(clips, ids, window=4, batch=4)
  assert [len(z) for z in together] == [5, 1, 3, 4]
  for clip, id, z in zip(clips, ids, together, strict=True):
    (alone,) = vae.encode([clip], [id], window=4, batch=4)
    np.testing.assert_array_equal(alone, z)  # the same programs
  assert vae._encode._cache_size() == vae._draw._cache_size() == 2
  vae.encode([clips[1][:, :, :4]], ["image"], window=4, batch=4)
  assert vae._encode._cache_size() == vae._draw._cache_size() == 3
  with pytest.raises(ClipShapeError, match="has 8 frames, not 2 n"):
    vae.encode([clips[0][:8]], ["a"], window=4)
