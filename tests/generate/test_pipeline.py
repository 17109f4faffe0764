"""What a trained workdir generates: reproducible, in order, on its own."""

import functools
import gc
import shutil
import weakref

import jax
import numpy as np
import pytest

from pyramid_jax import checkpoint, sharding
from pyramid_jax.attention import tpu
from pyramid_jax.checkpoint import CheckpointError
from pyramid_jax.config import (
  Config,
  ConfigError,
  FlowConfig,
  GenerateConfig,
  MeshConfig,
  VAEConfig,
)
from pyramid_jax.convert.tiny_text import write_tiny_text_encoders
from pyramid_jax.flow.sampler import compiled_unit
from pyramid_jax.generate.pipeline import Pipeline
from pyramid_jax.generate.sizes import sampling_plan

RED, BLUE, GREEN = (f"a {c} circle" for c in ("red", "blue", "green"))


@pytest.fixture(scope="module")
def pipeline(workdirs):
  return Pipeline.load(workdirs.dit)


@pytest.fixture(scope="module")
def single(workdirs):
  """The same on one device."""
  mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
  return Pipeline.load(workdirs.dit, mesh=mesh)


@pytest.fixture(scope="module")
def frames(pipeline):
  """Sample 0 is RED, sample 1 is BLUE."""
  return pipeline([RED, BLUE], seed=5)


def test_frames_have_the_size_and_length_of_the_config(frames):
  assert frames.shape == (2, 5, 32, 32, 3) and frames.dtype == np.uint8


def test_the_same_seed_gives_the_same_frames(pipeline, frames):
  np.testing.assert_array_equal(pipeline([RED, BLUE], seed=5), frames)


def test_devices_that_split_a_clip_give_its_frames(workdirs, frames):
  """By tokens and heights, with weights split as well."""
  config = MeshConfig(data=1, fsdp=2, tensor=2, sequence=2)
  split = Pipeline.load(workdirs.dit, mesh=sharding.make_mesh(config))
  found = split([RED, BLUE], seed=5)
  # a value between two of 256 levels may round either way
  apart = np.abs(found.astype(int) - frames)
  assert apart.max() <= 1 and (apart > 0).mean() < 1e-3


def test_another_seed_gives_other_frames(pipeline, frames):
  other = pipeline([RED, BLUE], seed=6)
  assert all((a != b).mean() > 0.5 for a, b in zip(frames, other, strict=True))


def test_samples_of_one_batch_differ(pipeline):
  a, b = pipeline([RED, RED], seed=5)
  assert (a != b).mean() > 0.5


def test_a_sample_does_not_depend_on_the_rest_of_its_batch(pipeline, frames):
  shifted = pipeline([BLUE, GREEN], seed=5, first=1)
  # one value of 255: a sum may be taken in another order elsewhere in a batch
  np.testing.assert_allclose(
    shifted[0].astype(int), frames[1].astype(int), atol=1
  )


def test_the_prompt_matters(pipeline, frames):
  assert (pipeline([GREEN, BLUE], seed=5)[0] != frames[0]).any()


def test_corrective_noise_matters_and_can_be_left_out(pipeline, frames):
  without = pipeline([RED, BLUE], seed=5, renoise=False)
  assert (without != frames).mean() > 0.1
  flow = FlowConfig(gamma=0.0)  # where a stage starts from this noise alone
  plan = lambda renoise: sampling_plan(
    Config(flow=flow), GenerateConfig(renoise=renoise), VAEConfig()
  )
  assert plan(True).renoise
  with pytest.raises(ConfigError, match="renoise is False at .*gamma 0"):
    plan(False)


def test_frames_come_unit_by_unit(pipeline, frames):
  units = list(pipeline.stream([RED, BLUE], seed=5))
  # the first frame alone, then two for each latent frame
  assert [u.shape[:2] for u in units] == [(2, 1), (2, 2), (2, 2)]
  np.testing.assert_array_equal(np.concatenate(units, 1), frames)


def test_given_frames_come_first_and_lead_to_others(pipeline, frames):
  given = np.stack([np.full((1, 32, 32, 3), v, np.uint8) for v in (20, 220)])
  units = list(pipeline.stream([RED, BLUE], seed=5, given=given))
  assert [u.shape[1] for u in units] == [1, 2, 2]
  # as the VAE sees them: encoded and decoded, nothing else
  vae = pipeline.vae
  z = vae.encode(list(given), ["5 0", "5 1"], 8)
  z = np.stack([vae.statistics.normalise(x) for x in z])
  (seen,) = vae.decode_stream([z])
  np.testing.assert_array_equal(units[0], seen)
  assert (units[1] != frames[:, 1:3]).any()


def test_guidance_after_given_frames_is_their_own_where_it_is_set(pipeline):
  given = np.zeros((1, 32, 32, 3), np.uint8)
  scale = lambda given=None, **changes: (
    (
      pipeline.plan(pipeline.options(video_guidance=5.0, **changes), given)
    ).later_guidance
  )
  assert scale(given_guidance=4.0) == scale(given) == 5
  assert scale(given, given_guidance=4.0) == 4


def test_given_frames_need_no_programs_of_their_own(workdirs, frames):
  pipeline = Pipeline.load(workdirs.dit)
  vae, before = pipeline.vae, compiled_unit._cache_size()
  given = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
  units = list(pipeline.stream([RED, BLUE], seed=5, given=given))
  assert [u.shape[1] for u in units] == [1, 2, 2]  # as if generated
  # `frames` made those of the sampler
  assert compiled_unit._cache_size() == before
  assert vae._decode._cache_size() == 2  # the first frame, and later units
  z = vae.encode(list(given), ["5 0", "5 1"], 8)
  (whole,) = vae.decode_stream(
    [np.stack([vae.statistics.normalise(x) for x in z])]
  )
  cut = np.concatenate(units[:2], 1)
  # a value between two of 256 levels may round either way
  np.testing.assert_allclose(cut.astype(int), whole.astype(int), atol=1)


def test_the_mesh_is_set_only_while_a_unit_is_made(pipeline, single, frames):
  """So streams of other meshes, and the caller's own work, may alternate."""
  outside = jax.sharding.get_abstract_mesh()
  streams = [p.stream([RED, BLUE], seed=5) for p in (pipeline, single)]
  made = [[], []]
  for _ in range(3):
    for stream, units in zip(streams, made, strict=True):
      units.append(next(stream))
      assert jax.sharding.get_abstract_mesh() == outside
  eight, one = (np.concatenate(units, 1).astype(int) for units in made)
  np.testing.assert_array_equal(eight, frames)
  # float32 sums in another order move a value by one of 256 levels at most
  np.testing.assert_allclose(one, frames, atol=1)


def test_clips_are_encoded_alike_alone_and_in_a_padded_batch(pipeline):
  clips = np.random.default_rng(0).integers(0, 256, (3, 9, 32, 32, 3), np.uint8)
  ids = ["a", "b", "c"]
  together = pipeline.vae.encode(list(clips), ids, window=16, batch=8)
  assert len(together) == 3
  alone = pipeline.vae.encode([clips[1]], ["b"], window=16, batch=8)
  np.testing.assert_allclose(alone[0], together[1], atol=1e-5)  # float32
  other = pipeline.vae.encode([clips[1]], ["d"], window=16, batch=8)
  assert np.abs(other[0] - alone[0]).max() > 0.01  # the draw is the id's


@pytest.mark.parametrize(
  "shape, changes, message",
  [
    ((1, 1, 32, 32, 3), {}, "1 given clips for 2 prompts; give one for each"),
    ((2, 2, 32, 32, 3), {}, r"2 given frames are not 2 n \+ 1 .* give 1 of"),
    ((2, 1, 32, 32, 3), {"frames": 1}, "1 given frames leave nothing"),
  ],
)
def test_given_frames_that_do_not_fit_are_refused(
  pipeline, shape, changes, message
):
  given = np.zeros(shape, np.uint8)
  with pytest.raises(ConfigError, match=message):
    next(pipeline.stream([RED, BLUE], given=given, **changes))


def test_rows_too_long_for_a_tpu_are_refused_before_the_first_unit(
  pipeline, monkeypatch
):
  monkeypatch.setattr(pipeline, "_devices", ("tpu", 1))
  options = pipeline.options()
  # at 16 x 16 latents: the last unit and the one before it, the older one at
  # half the resolution; its shortest text
  tokens = 64 + 64 + 16 + 16
  monkeypatch.setattr(tpu, "LIMIT", tokens)
  pipeline.plan(options)
  with pytest.raises(ConfigError, match=f"a row of {tokens + 16} tokens"):
    next(pipeline.latents([f"{RED} {RED} {RED}"], options))
  monkeypatch.setattr(tpu, "LIMIT", tokens - 1)
  with pytest.raises(ConfigError, match=f"a row of {tokens} tokens"):
    pipeline.plan(options)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"height": 36}, r"height 36 is not a multiple of 8 .*nearest: 32"),
    ({"width": 40 * 8}, r"width 320 is more than the position table covers"),
    ({"frames": 6}, r"frames 6 is not 2 n \+ 1 .*nearest: 5"),
    ({"steps": (1, 1, 1)}, r"steps is \(1, 1, 1\); .* each of the 2 stages"),
    ({"tile": 12}, r"tile is 12; .*multiple of 8 .*nearest: 16"),
    ({"video_steps": (0, 1)}, r"video_steps is \(0, 1\); .* at least 1"),
    ({"frmes": 5}, r"frmes: not an option of generation; there are .*frames"),
  ],
)
def test_a_request_that_does_not_fit_is_refused(pipeline, changes, message):
  with pytest.raises(ConfigError, match=message):
    next(pipeline.stream([RED], **changes))


def test_the_trained_weights_can_be_had_without_their_average(
  workdirs, pipeline
):
  raw = Pipeline.load(workdirs.dit, weights="params")
  ema, params = (
    np.concatenate([x.ravel() for x in jax.tree.leaves(p._params.value)])
    for p in (pipeline, raw)
  )
  assert ema.shape == params.shape and (ema != params).any()


@pytest.fixture
def moved(workdirs, tmp_path):
  """The transformer's workdir, whose VAE and text encoders are elsewhere."""
  shutil.copytree(workdirs.dit, tmp_path / "dit")
  for file in (tmp_path / "dit" / "checkpoints").rglob("meta/metadata"):
    text = file.read_text()
    assert str(workdirs.folder) in text
    file.write_text(text.replace(str(workdirs.folder), "/gone"))
  return tmp_path / "dit"


def test_moved_folders_are_named_and_can_be_given(workdirs, moved):
  vae, text = str(workdirs.vae), str(workdirs.text)
  with pytest.raises(
    CheckpointError,
    match="trained with the vae of /gone/vae, which is not there; say with "
    "--vae",
  ):
    Pipeline.load(moved)
  with pytest.raises(CheckpointError, match="the text of .* with --text"):
    Pipeline.load(moved, vae=vae)
  assert Pipeline.load(moved, vae=vae, text=text).vae.path == vae


def test_prompts_change_at_a_unit(pipeline, frames):
  changed = pipeline([RED, BLUE], seed=5, later={2: [GREEN, GREEN]})
  np.testing.assert_array_equal(changed[:, :3], frames[:, :3])
  assert (changed[:, 3:] != frames[:, 3:]).any((1, 2, 3, 4)).all()
  for later, message in (
    ({3: [GREEN, GREEN]}, "unit 3: 2 of them; units 1 to 2 can change"),
    ({1: [GREEN]}, "unit 1: 1 of them; .* with 2 prompts each"),
  ):
    with pytest.raises(ConfigError, match=message):
      pipeline([RED, BLUE], later=later)


def test_models_that_take_turns_give_the_same_frames(workdirs, frames):
  low = Pipeline.load(workdirs.dit, low_memory=True)
  np.testing.assert_array_equal(low([RED, BLUE], seed=5), frames)
  assert list(low.phases) == ["text", "transformer", "VAE"]
  assert all(p.seconds > 0 and p.peak > 2**20 for p in low.phases.values())


def test_a_model_whose_turn_is_over_is_gone(workdirs, monkeypatch):
  low, made = Pipeline.load(workdirs.dit, low_memory=True), []

  def remembered(part):
    load = part._load

    def loaded():
      value = load()
      made.append(weakref.ref(value))
      return value

    monkeypatch.setattr(part, "_load", loaded)

  remembered(low._text)
  remembered(low._vae)
  alive = []
  given = np.zeros((1, 1, 32, 32, 3), np.uint8)
  low([RED], given=given, progress=lambda: alive.append([r() for r in made]))
  # the text encoder and the VAE of the given frame, while units are generated
  assert alive and all(found == [None, None] for found in alive)


def test_one_device_gives_the_frames_of_eight(single, frames):
  alone = single([RED, BLUE], seed=5)
  # float32 sums in another order move a value by one of 256 levels at most
  np.testing.assert_allclose(alone.astype(int), frames.astype(int), atol=1)


def test_progress_counts_every_call_of_the_transformer(pipeline, frames):
  calls = []
  same = pipeline([RED, BLUE], seed=5, progress=lambda: calls.append(1))
  np.testing.assert_allclose(same.astype(int), frames.astype(int), atol=1)
  g = pipeline.config.generate
  assert len(calls) == sum(g.steps) + 2 * sum(g.video_steps)


def test_a_pipeline_that_told_its_progress_can_be_freed(workdirs):
  pipeline = Pipeline.load(workdirs.dit)
  told = []
  listener = functools.partial(told.append, pipeline)
  pipeline([RED], frames=1, progress=listener)
  assert told
  gone = weakref.ref(pipeline)
  told.clear()
  del pipeline, listener
  gc.collect()
  assert gone() is None


def test_another_text_encoder_is_refused(workdirs, tmp_path):
  write_tiny_text_encoders(tmp_path / "text", [RED, BLUE], seed=9)
  with pytest.raises(
    CheckpointError,
    match="another text than .*; name the right one with --text",
  ):
    Pipeline.load(workdirs.dit, text=str(tmp_path / "text"))


def test_another_vae_is_refused(workdirs, tmp_path):
  checkpoints, config, meta = checkpoint.open_trained(workdirs.vae, "vae")
  restored = checkpoints.manager.restore(checkpoints.latest)
  checkpoints.close()
  other = checkpoint.Checkpoints(tmp_path)
  ema = jax.tree.map(lambda x: np.asarray(x) + 1, restored["ema"])
  other.save(1, {"ema": ema}, config, **meta)
  other.close()
  with pytest.raises(CheckpointError, match="another vae than .* with --vae"):
    Pipeline.load(workdirs.dit, vae=str(tmp_path))


def test_a_vae_whose_training_was_stopped_says_so(workdirs, tmp_path):
  checkpoints, config, _ = checkpoint.open_trained(workdirs.vae, "vae")
  checkpoints.close()
  stopped = checkpoint.Checkpoints(tmp_path)
  stopped.save(1, {"ema": {"x": np.zeros(1)}}, config)
  stopped.close()
  with pytest.raises(
    CheckpointError, match="stopped at step 1 of 2; .* same pyramid-train again"
  ):
    Pipeline.load(workdirs.dit, vae=str(tmp_path))
