"""Training that starts from Stable Diffusion 3's transformer."""

import json

import jax
import numpy as np
import pytest

from pyramid_jax import checkpoint, sharding, tensors
from pyramid_jax.config import MeshConfig
from pyramid_jax.convert import dit, sd3, snapshot
from pyramid_jax.convert.models import DIT
from pyramid_jax.convert.names import NameTableError
from pyramid_jax.generate.pipeline import Pipeline
from tests import commands
from tests.convert import tiny_snapshot


@pytest.fixture
def folder(tmp_path):
  """A transformer as SD3 medium has it: without norms of query and key."""
  config, folder = tiny_snapshot.MMDIT, tmp_path / "sd3" / "transformer"
  tiny_snapshot.write_model(folder, DIT, config, "float16")
  found = {
    name: np.asarray(x)
    for name, x in snapshot.open_tensors(folder).items()
    if "norm_q" not in name and "norm_k" not in name and "norm_add" not in name
  }
  found |= dit.buffers(config)
  values = json.loads((folder / "config.json").read_text())
  for key in ("use_temporal_causal", "interp_condition_pos", "qk_norm"):
    del values[key]
  for path in folder.iterdir():
    path.unlink()
  snapshot.write_component(folder, values, found)
  return folder, found


def test_weights_are_taken_and_what_is_new_is_told(folder, tmp_path):
  folder, found = folder
  out = tmp_path / "start"
  result = commands.run("convert", f"sd3={folder.parent}", f"out={out}")
  assert result.code == 0, result.err
  assert f"taken: {len(found) - 1} tensors" in result.out
  assert "new: 12 scales of query and key norms" in result.out
  assert "same: the position table" in result.out
  assert "differs: queries and keys are normalised" in result.out
  params = tensors.read_tree(out / tensors.WEIGHTS)
  back = DIT.to_torch(tiny_snapshot.MMDIT, params)
  for name, x in back.items():
    if name in found:
      np.testing.assert_array_equal(x, found[name])
    else:
      assert "norm" in name and (x == 1).all()


def test_a_run_starts_from_them(folder, tmp_path):
  sd3.convert(folder[0], tmp_path / "start", "float32")
  trained = checkpoint.load_trained(
    tmp_path / "start",
    "dit",
    lambda config: DIT.make(config.model),
    sharding.make_mesh(MeshConfig()),
  )
  assert trained.config.model == tiny_snapshot.MMDIT
  assert {str(x.dtype) for x in jax.tree.leaves(trained.params)} == {
    "float16",
    "float32",
  }


def test_a_start_cannot_generate(folder, tmp_path):
  sd3.convert(folder[0], tmp_path / "start")
  with pytest.raises(checkpoint.CheckpointError, match="a start for training"):
    Pipeline.load(tmp_path / "start")


def test_other_missing_tensors_are_an_error(folder, tmp_path):
  folder, found = folder
  del found["proj_out.weight"], found["transformer_blocks.1.attn.to_q.bias"]
  values = json.loads((folder / "config.json").read_text())
  for path in folder.iterdir():
    path.unlink()
  snapshot.write_component(folder, values, found)
  with pytest.raises(NameTableError, match="2 missing") as error:
    sd3.convert(folder, tmp_path / "start")
  assert "proj_out.weight" in str(error.value)
  assert str(folder) in str(error.value)
