"""A folder of text encoders is read, used and written as one thing."""

import json
import shutil

import jax
import numpy as np
import pytest

from pyramid_jax.config import ConfigError, MeshConfig, TextConfig
from pyramid_jax.convert import snapshot
from pyramid_jax.convert.names import NameTableError
from pyramid_jax.convert.snapshot import SnapshotError
from pyramid_jax.convert.text_folder import (
  TextEncoder,
  from_config,
  load_text_encoder,
  write_text_encoder,
)
from pyramid_jax.convert.tiny_text import write_tiny_text_encoders
from pyramid_jax.data.tokenize import TokenizerError
from pyramid_jax.sharding import make_mesh
from pyramid_jax.tensors import TensorFileError

CAPTIONS = ["a small red circle moves left", "a large blue square moves up"]
PROMPTS = ["a red square", "", "a large blue circle moves left", "blue", "up"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """The tiny encoders of both kinds."""
  root = tmp_path_factory.mktemp("text")
  for kind in ("sd3", "flux"):
    write_tiny_text_encoders(root / kind, CAPTIONS, kind=kind, width=32)
  return root


@pytest.fixture(scope="module")
def encoder(folders):
  return load_text_encoder(folders / "sd3", dtype="float32", batch=4)


@pytest.fixture(scope="module")
def encoded(encoder):
  return encoder.encode(PROMPTS)


def files(encoder):
  return {part: t.files for part, t in encoder.tokenizers.items()}


@pytest.mark.parametrize("kind, other", [("sd3", "flux"), ("flux", "sd3")])
def test_a_folder_of_another_kind_is_told_with_its_name(folders, kind, other):
  folder = folders / other
  message = (
    rf"{folder}/text_encoder_2/config.json, read for config.text.kind='{kind}'"
    rf": .* If {folder} is of another kind \('{other}'\), set that\."
  )
  with pytest.raises(ConfigError, match=message):
    load_text_encoder(folder, kind)


def write(folder, encoder, **options):
  write_text_encoder(
    folder, encoder.configs, encoder.params, files(encoder), **options
  )


def assert_close(actual, desired):
  for (text, pooled), (text_0, pooled_0) in zip(actual, desired, strict=True):
    # Other batch shapes are other programs: float32 sums in another order.
    np.testing.assert_allclose(text, text_0, atol=1e-5)
    np.testing.assert_allclose(pooled, pooled_0, atol=1e-5)


def test_features_are_the_valid_tokens(encoder, encoded):
  assert [len(text) for text, _ in encoded] == [4, 1, 7, 2, 2]
  for text, pooled in encoded:
    assert text.dtype == pooled.dtype == np.float32
    assert text.shape[1:] == (encoder.text_dim,) == (32,)
    assert pooled.shape == (encoder.pooled_dim,) == (32,)
  assert encoder.encode([]) == []


def test_a_prompt_is_encoded_alike_in_any_company(encoder, encoded):
  alone = [encoder.encode([prompt])[0] for prompt in PROMPTS]
  assert_close(alone, encoded)


def test_a_prompt_costs_no_more_tokens_than_its_length_asks(encoder, folders):
  fresh = load_text_encoder(folders / "sd3", dtype="float32", batch=4)
  words = lambda n: " ".join(["red"] * n)
  lengths = [0, 3, 15, 16, 20, 31, 40, 90, 200, 5]
  prompts = [words(n) for n in lengths]
  widths = []
  call = fresh._call
  fresh._call = lambda inputs: (
    widths.append([x.shape for x in inputs]) or call(inputs)
  )
  together = fresh.encode(prompts)
  # of T5, its mask and two CLIPs, which have 77 positions; 15 words fill 16
  # tokens of T5 and 17 of CLIP
  assert [w[0] for w in widths] == [(4, 16), (4, 32), (4, 64), (4, 128)]
  assert [w[2] for w in widths] == [(4, 16), (4, 32), (4, 64), (4, 77)]
  for prompt, length, (text, pooled) in zip(
    prompts, lengths, together, strict=True
  ):
    ((alone, alone_pooled),) = fresh.encode([prompt])
    np.testing.assert_array_equal(text, alone)  # the same program
    np.testing.assert_array_equal(pooled, alone_pooled)
    assert len(text) == min(length + 1, 128)
  assert fresh._apply._cache_size() == 4


def test_short_padding_changes_nothing(encoder):
  prompts = [p for p in PROMPTS if p] + [" ".join(["blue"] * 40)]
  found = encoder.encode(prompts)
  t5, mask = encoder.tokenizers["t5"](prompts)
  clips = [encoder.tokenizers[k](prompts) for k in ("clip_l", "clip_g")]
  apply = jax.jit(encoder._apply)
  text, pooled = apply(encoder.params, t5, mask, *clips)
  whole = [
    (np.asarray(text[i, : mask[i].sum()]), np.asarray(pooled[i]))
    for i in range(len(prompts))
  ]
  assert_close(found, whole)


def test_a_mesh_gives_the_features_of_one_device(folders, encoder, encoded):
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  split = load_text_encoder(
    folders / "sd3", dtype="float32", batch=3, mesh=mesh
  )
  assert split.batch == 4
  kernel = split.params["t5"]["blocks"]["mlp"]["up"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  assert_close(split.encode(PROMPTS), encoded)
  assert split.fingerprint == encoder.fingerprint


def test_flux_type_pools_one_unprojected_clip(folders):
  path = str(folders / "flux")
  config = TextConfig(path, "flux", max_tokens=16, dtype="float32")
  flux = from_config(config, batch=1)
  assert flux.params["clip_l"].keys() == {
    "blocks", "embed", "norm", "positions",
  }  # fmt: skip
  ((text, pooled),) = flux.encode(["a red square"])
  assert text.shape == (4, 32) and pooled.shape == (32,)
  # A layer norm made it: zero mean, unit variance.
  np.testing.assert_allclose([pooled.mean(), pooled.std()], [0, 1], atol=1e-3)


@pytest.mark.parametrize("shard_bytes", [2**30, 20_000])
def test_what_is_written_is_read_back_exactly(tmp_path, encoder, shard_bytes):
  write(tmp_path / "copy", encoder, shard_bytes=shard_bytes)
  shards = list((tmp_path / "copy" / "text_encoder_3").glob("*.safetensors"))
  assert (len(shards) > 1) == (shard_bytes == 20_000)
  copy = load_text_encoder(tmp_path / "copy", dtype="float32")
  assert copy.configs == encoder.configs
  jax.tree.map(np.testing.assert_array_equal, copy.params, encoder.params)
  assert copy.fingerprint == encoder.fingerprint


def test_bfloat16_is_kept_through_a_round_trip(tmp_path, folders):
  half = load_text_encoder(folders / "sd3", dtype="bfloat16")
  assert {x.dtype.name for x in jax.tree.leaves(half.params)} == {"bfloat16"}
  write(tmp_path / "half", half)
  again = load_text_encoder(tmp_path / "half", dtype="bfloat16")
  jax.tree.map(np.testing.assert_array_equal, again.params, half.params)
  assert again.fingerprint == half.fingerprint


def test_the_fingerprint_covers_configs_parameters_and_tokenizers(encoder):
  configs, params = encoder.configs, jax.device_get(encoder.params)
  tokenizers = encoder.tokenizers
  same = TextEncoder(configs, params, tokenizers, batch=7)
  assert same.fingerprint == encoder.fingerprint
  params["clip_g"]["norm"]["bias"] = params["clip_g"]["norm"]["bias"] + 1e-6
  weight = TextEncoder(configs, params, tokenizers)
  swapped = TextEncoder(
    configs,
    encoder.params,
    {**tokenizers, "clip_g": tokenizers["clip_l"]},
  )
  prints = {encoder.fingerprint, weight.fingerprint, swapped.fingerprint}
  assert len(prints) == 3 and all(len(p) == 64 for p in prints)


def test_an_existing_folder_is_not_overwritten(folders, encoder):
  before = sorted(folders.rglob("*"))
  with pytest.raises(SnapshotError, match="already exists"):
    write(folders / "sd3", encoder)
  assert sorted(folders.rglob("*")) == before


def test_a_failed_write_leaves_nothing(tmp_path, encoder):
  params = {k: v for k, v in encoder.params.items() if k != "t5"}
  with pytest.raises(KeyError):
    write_text_encoder(
      tmp_path / "new", encoder.configs, params, files(encoder)
    )
  assert not list(tmp_path.iterdir())


def _drop_tensor(folder):
  here = folder / "text_encoder"
  config = snapshot.read_json(here / "config.json")
  tensors = {k: np.asarray(v) for k, v in snapshot.open_tensors(here).items()}
  del tensors["text_projection.weight"]
  shutil.rmtree(here)
  snapshot.write_component(here, config, tensors)


def _drop_shard(folder):
  here = folder / "text_encoder_3"
  (here / "model.safetensors").unlink()
  index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
  snapshot.write_json(here / "model.safetensors.index.json", index)


def _cut_file(folder):
  path = folder / "text_encoder_2" / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def _shrink_vocabulary(folder):
  here = folder / "text_encoder_3"
  config = snapshot.read_json(here / "config.json") | {"vocab_size": 100}
  tensors = {k: np.asarray(v) for k, v in snapshot.open_tensors(here).items()}
  tensors["shared.weight"] = tensors["shared.weight"][:100]
  shutil.rmtree(here)
  snapshot.write_component(here, config, tensors)


def _change_width(folder):
  path = folder / "text_encoder_3" / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"d_ff": 65}))


DAMAGE = {
  "no folder": (shutil.rmtree, SnapshotError, "text_encoder/config.json"),
  "no tokenizer": (
    lambda folder: shutil.rmtree(folder / "tokenizer_3"),
    TokenizerError,
    "tokenizer_3 does not exist",
  ),
  "no weights": (
    lambda f: (f / "text_encoder" / "model.safetensors").unlink(),
    SnapshotError,
    "needs model.safetensors.*there is config.json",
  ),
  "config is not JSON": (
    lambda f: (f / "text_encoder" / "config.json").write_text("{"),
    SnapshotError,
    "config.json is not JSON",
  ),
  "no tensor": (_drop_tensor, NameTableError, "text_projection.weight"),
  "no shard": (_drop_shard, SnapshotError, "model-00001-of-00002"),
  "cut file": (_cut_file, TensorFileError, "text_encoder_2.*fetch it again"),
  "ids": (_shrink_vocabulary, SnapshotError, "tokenizer_3 gives .* has 100"),
  "shape": (_change_width, NameTableError, r"wi_0.weight \(64, 32\)"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_named(tmp_path, folders, damage):
  act, error, message = DAMAGE[damage]
  folder = shutil.copytree(folders / "sd3", tmp_path / "damaged")
  act(folder)
  with pytest.raises(error, match=message):
    load_text_encoder(folder, dtype="float32")


def test_settings_that_name_no_encoder_are_refused(folders):
  with pytest.raises(ConfigError, match="config.text.path is empty"):
    from_config(TextConfig())
  with pytest.raises(ConfigError, match="'sdxl' is unknown; use one of sd3"):
    load_text_encoder(folders / "sd3", "sdxl")
