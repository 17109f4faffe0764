"""Snapshots become ours and come back bit for bit; what is wrong is named."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from pyramid_jax import checkpoint, sharding, tensors
from pyramid_jax.config import DiTConfig, MeshConfig
from pyramid_jax.convert import released
from pyramid_jax.convert.models import CAUSAL_VAE, DIT
from pyramid_jax.convert.names import NameTableError
from pyramid_jax.convert.snapshot import SnapshotError
from pyramid_jax.generate.pipeline import Pipeline
from pyramid_jax.tensors import WEIGHTS
from tests import commands
from tests.convert import tiny_snapshot


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
  """Both kinds, as released and as ours."""
  root = tmp_path_factory.mktemp("snapshots")
  for kind in tiny_snapshot.TRANSFORMER:
    tiny_snapshot.write(root / kind, kind)
    for part in released.components(root / kind):
      released.convert(part, root / f"{kind}_ours", "float32")
  return root


def state_dict(folder):
  """All tensors of a component, by the library that wrote the format."""
  result = {}
  for path in sorted(folder.glob("*.safetensors")):
    result |= safetensors.numpy.load_file(path)
  return result


def parts(folder):
  return sorted(p.parent.name for p in folder.glob("*/config.json"))


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_torch_to_ours_to_torch_is_bit_equal(snapshots, tmp_path, kind):
  for part in released.ours(snapshots / f"{kind}_ours"):
    released.export(part, tmp_path)
  assert parts(tmp_path) == parts(snapshots / kind)
  for name in parts(tmp_path):
    before, after = (
      state_dict(root / name) for root in (snapshots / kind, tmp_path)
    )
    assert after.keys() == before.keys(), name
    for key, x in before.items():
      assert after[key].dtype == x.dtype
      np.testing.assert_array_equal(
        after[key].view(np.uint8), x.view(np.uint8), err_msg=key
      )
    configs = (
      json.loads((root / name / "config.json").read_text())
      for root in (snapshots / kind, tmp_path)
    )
    assert next(configs) == next(configs)
  for path in (snapshots / kind).glob("tokenizer*/*"):
    copied = tmp_path / path.relative_to(snapshots / kind)
    assert copied.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_converted_weights_are_the_models_parameters(snapshots, kind):
  """On a mesh, in the stored dtype, as `from_torch` says."""
  name, config = tiny_snapshot.FOLDERS[kind], tiny_snapshot.TRANSFORMER[kind]
  mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  trained = checkpoint.load_trained(
    snapshots / f"{kind}_ours" / name,
    "dit",
    lambda config: DIT.make(config.model),
    mesh,
  )
  assert trained.config.model == config
  expected = DIT.from_torch(config, state_dict(snapshots / kind / name))
  split = 0
  for x, y in zip(
    jax.tree.leaves(trained.params), jax.tree.leaves(expected), strict=True
  ):
    assert x.dtype == "bfloat16"
    split += not x.sharding.is_fully_replicated
    np.testing.assert_array_equal(np.asarray(x, np.float32), y)
  assert split > 10


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_snapshot_goes_straight_onto_a_mesh(snapshots, kind):
  mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))
  for part in released.components(snapshots / kind):
    config, params = released.load(part, mesh)
    ours = tensors.read_tree(snapshots / f"{kind}_ours" / part.name / WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, params, ours)
    model = part.model.make(config)
    places = sharding.tree_shardings(mesh, model.shapes, model.axes)
    assert jax.tree.map(lambda x: x.sharding, params) == places
    if part.what in ("mmdit", "miniflux"):  # and none of it is whole anywhere
      kernel = params["patch_in"]["kernel"]
      assert kernel.addressable_shards[0].data.size * 4 == kernel.size


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_converted_snapshot_has_the_released_settings(snapshots, kind):
  pipeline = Pipeline.load(
    snapshots / f"{kind}_ours" / tiny_snapshot.FOLDERS[kind]
  )
  defaults = pipeline.config.generate
  assert defaults.prompt_suffix == ", hyper quality, Ultra HD, 8K"
  assert (defaults.height, defaults.guidance) == (
    (768, 9.0) if kind == "sd3" else (384, 7.0)
  )
  assert pipeline.vae.statistics == released.STATISTICS[kind]


def test_a_converted_snapshot_generates(snapshots):
  name = tiny_snapshot.FOLDERS["flux"]
  pipeline = Pipeline.load(snapshots / "flux_ours" / name)
  frames = pipeline(
    ["a red circle"], height=16, width=32, frames=1, steps=(1, 1, 1)
  )  # fmt: skip
  assert frames.shape == (1, 1, 16, 32, 3) and np.ptp(frames) > 0


def test_the_command_converts_both_ways(snapshots, tmp_path):
  ours, back = tmp_path / "ours", tmp_path / "back"
  result = commands.run(
    "convert", f"snapshot={snapshots / 'flux'}", "model=miniflux", f"out={ours}"
  )
  assert result.code == 0, result.err
  assert "diffusion_transformer_384p: " in result.out
  assert "peak memory" in result.out
  assert [p.name for p in ours.iterdir()] == ["diffusion_transformer_384p"]
  result = commands.run("convert", "to_torch", f"workdir={ours}", f"out={back}")
  assert result.code == 0, result.err
  assert parts(back) == ["diffusion_transformer_384p"]


def test_a_trained_run_is_written_for_torch(workdirs, tmp_path):
  result = commands.run(
    "convert", "to_torch", f"workdir={workdirs.dit}", f"out={tmp_path}"
  )
  assert result.code == 0, result.err
  released.export(workdirs.vae, tmp_path, weights="params")
  mesh = sharding.make_mesh(MeshConfig())
  for name, model, workdir, kind, weights in (
    ("diffusion_transformer", DIT, workdirs.dit, "dit", "ema"),
    ("causal_video_vae", CAUSAL_VAE, workdirs.vae, "vae", "params"),
  ):
    values = json.loads((tmp_path / name / "config.json").read_text())
    config = model.read_config(values)
    trained = checkpoint.load_trained(
      workdir, kind, lambda _, m=model, c=config: m.make(c), mesh, weights
    )
    back = model.from_torch(config, state_dict(tmp_path / name))
    jax.tree.map(np.testing.assert_array_equal, back, trained.params)


def break_shape(folder):
  values = json.loads((folder / "config.json").read_text())
  values["num_layers"] += 1
  (folder / "config.json").write_text(json.dumps(values))


def test_every_tensor_that_does_not_fit_is_named(snapshots, tmp_path):
  name = tiny_snapshot.FOLDERS["flux"]
  shutil.copytree(snapshots / "flux" / name, tmp_path / "in" / name)
  break_shape(tmp_path / "in" / name)
  (part,) = released.components(tmp_path / "in", "miniflux")
  with pytest.raises(NameTableError) as error:
    released.convert(part, tmp_path / "out")
  text = str(error.value)
  assert str(tmp_path / "in" / name) in text
  assert text.count("transformer_blocks.2.") >= 26  # the whole layer
  assert not (tmp_path / "out").exists() or not list(
    (tmp_path / "out").iterdir()
  )


def test_what_is_missing_and_where_it_was_looked_for(snapshots, tmp_path):
  with pytest.raises(SnapshotError, match="has no mmdit: .*384p .miniflux.*"):
    released.components(snapshots / "flux", "mmdit")
  with pytest.raises(SnapshotError, match="has no model: .*found none"):
    released.components(tmp_path)
  part = tmp_path / "part"
  shutil.copytree(snapshots / "sd3", part)
  shutil.rmtree(part / "text_encoder_2")
  shutil.rmtree(part / "causal_video_vae")
  with pytest.raises(
    SnapshotError, match=r"lacks the VAE .causal_video_vae., CLIP-G .*--model"
  ):
    released.components(part)
  assert len(released.components(part, "t5")) == 1
  shutil.copytree(
    snapshots / "flux" / "text_encoder", tmp_path / "text_encoder"
  )
  (part,) = released.components(tmp_path, "clip_l")
  with pytest.raises(SnapshotError, match="tokenizer is missing"):
    released.convert(part, tmp_path / "out")


def test_flags_that_contradict_each_other(tmp_path):
  error = commands.run(
    "convert", "snapshot=a", "to_torch", "workdir=b", "out=c"
  )
  assert error.error == "give one of --snapshot, --to_torch and --sd3."
  assert (
    "no model"
    in commands.run(
      "convert", f"snapshot={tmp_path}", f"out={tmp_path}/out"
    ).error
  )


def test_weights_that_do_not_fit_their_config_are_refused(snapshots, tmp_path):
  name = tiny_snapshot.FOLDERS["flux"]
  shutil.copytree(snapshots / "flux_ours" / name, tmp_path / name)
  path = tmp_path / name / checkpoint.TRAINED
  values = json.loads(path.read_text())
  values["config"]["model"]["layers"] = 5
  path.write_text(json.dumps(values))
  mesh = sharding.make_mesh(MeshConfig())
  with pytest.raises(
    checkpoint.CheckpointError, match=r"blocks.* \(2, .*again"
  ):
    checkpoint.load_trained(
      tmp_path / name, "dit", lambda c: DIT.make(c.model), mesh
    )


@pytest.mark.parametrize(
  "model, config",
  [
    (DIT, DiTConfig()),
    (CAUSAL_VAE, tiny_snapshot.VAE),
  ],
)
def test_configs_come_back(model, config):
  values = model.write_config(config)
  assert model.read_config(values).__dict__ | {"dtype": 0} == (
    config.__dict__ | {"dtype": 0}
  )
