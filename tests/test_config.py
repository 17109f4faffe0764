"""Settings are strict, complete and survive JSON."""

import importlib.util
import pathlib

import pytest

from pyramid_jax import config
from pyramid_jax.config import Config, ConfigError

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path, *args):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module, config.from_dict(Config, module.get_config(*args))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_config_file_is_a_config_with_its_recipe(path):
  module, _ = load(path)
  for word in ("pyramid-", "Hardware", "Expected"):
    assert word in module.__doc__, f"{path} does not say its {word}"


def test_an_unknown_key_names_its_neighbour():
  with pytest.raises(ConfigError, match=r"model\.layrs is .*model\.layers\?"):
    config.from_dict(Config, {"model": {"layrs": 3}})


@pytest.mark.parametrize(
  "values, message",
  [
    ({"seed": "1"}, r"config.seed must be int, not str '1'"),
    ({"seed": True}, r"config.seed must be int, not bool"),
    ({"model": 3}, r"config.model must be a group"),
    ({"generate": {"steps": 3}}, r"config.generate.steps must be a list"),
    ({"encode": {"sizes": [[1, 2, 3]]}}, r"sizes\[0\] must have 2 values"),
    ({"flow": {"stage_range": ["a"]}}, r"stage_range\[0\] must be float"),
  ],
)
def test_a_value_of_another_type_is_refused_by_name(values, message):
  with pytest.raises(ConfigError, match=message):
    config.from_dict(Config, values)


def test_an_int_where_a_float_belongs_is_one():
  shift = config.from_dict(Config, {"flow": {"shift": 2}}).flow.shift
  assert shift == 2.0 and type(shift) is float


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_json_gives_the_same_config_back(path):
  _, settings = load(path)
  assert config.from_json(Config, config.to_json(settings)) == settings


def test_differences_name_the_setting_and_both_values():
  a, b = Config(), Config(seed=1, model=config.DiTConfig(layers=2))
  assert config.differences(a, b) == [
    "config.seed: 0 -> 1",
    "config.model.layers: 24 -> 2",
  ]


def test_every_setting_of_a_file_can_be_changed_from_the_command_line():
  assert set(config.settings().train.keys()) == {
    f.name for f in config.dataclasses.fields(config.TrainConfig)
  }


@pytest.mark.parametrize(
  "values, message",
  [
    (
      {"model": {"remat": "all"}},
      r"model.remat is 'all'; it must be one of 'none', 'matmuls', 'atten",
    ),
    ({"kind": "gan"}, r"config.kind is 'gan'; it must be one of 'vae', 'dit'"),
    ({"vae": {"dtype": "float8"}}, r"vae.dtype is 'float8'"),
    ({"train": {"log_every": 0}}, r"train.log_every is 0; .* at least 1"),
    ({"latents": {"rows": -1}}, r"latents.rows is -1; .* at least 1"),
    ({"model": {"heads": 1.0}}, r"model.heads must be int, not float 1.0"),
  ],
)
def test_a_value_out_of_range_is_refused_with_what_is_known(values, message):
  with pytest.raises(ConfigError, match=message):
    config.from_dict(Config, values)


@pytest.mark.parametrize(
  "path", ["seed", "model.layers", "latents.sources[0].path", "videos.phases"]
)
def test_a_path_to_a_setting_is_known(path):
  config.check_path(path)


@pytest.mark.parametrize(
  "path, message",
  [
    ("sed", r"config\.sed is .* mean config\.seed\?"),
    ("model.layrs", r"config\.model\.layrs is .* mean config\.model\.layers\?"),
    ("latents.sources[0].paht", r"sources\.paht is .* mean .*sources\.path\?"),
    ("seed.x", r"config\.seed is one setting, it has no 'x'"),
  ],
)
def test_a_path_to_no_setting_is_refused(path, message):
  with pytest.raises(ConfigError, match=message):
    config.check_path(path)
