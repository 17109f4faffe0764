"""Settings are strict, complete and survive JSON."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest
import tokenizers

from pyramid_jax import config
from pyramid_jax.config import Config, ConfigError, LPIPSConfig
from pyramid_jax.convert.tiny_text import t5_tokenizer_files
from pyramid_jax.data import latents, shapes
from pyramid_jax.data.curriculum import Curriculum
from pyramid_jax.train import dit, dit_task, vae

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
STAGES = ("image", "384p_2s", "384p_5s", "768p")
# what a file makes beside its default
VARIANTS = {
  "coco_3k": ["full"],
  "curriculum": [f"{m}_{s}" for m in ("mmdit", "miniflux") for s in STAGES][1:],
  "miniflux_384p": ["2s"],
  "mmdit_2b_384p": ["2s"],
  "shapes": ["miniflux", "vae"],
  "shapes_cpu": ["vae", "vae_long"],
  "tiny": ["vae"],
}
RUNS = {
  ":".join([path.stem, *variant]): (path, *variant)
  for path in FILES
  for variant in [(), *((v,) for v in VARIANTS.get(path.stem, ()))]
}
EMBEDDED = ("shapes", "shapes_cpu", "tiny")  # files of the embedded dataset


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


@pytest.mark.parametrize("name", VARIANTS)
def test_an_argument_that_is_no_choice_is_refused_with_all_choices(name):
  module, _ = load(next(path for path in FILES if path.stem == name))
  with pytest.raises(ConfigError, match="'foo'") as refusal:
    module.get_config("foo")
  named = set(re.findall(r"\w+", str(refusal.value)))
  assert {*VARIANTS[name], module.get_config.__defaults__[0]} <= named


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


@pytest.mark.parametrize("run", RUNS)
def test_json_gives_the_same_config_back(run):
  _, settings = load(*RUNS[run])
  assert config.from_json(Config, config.to_json(settings)) == settings


@pytest.mark.parametrize("run", RUNS)
def test_every_run_has_a_model_and_an_optimizer(run):
  _, settings = load(*RUNS[run])
  if settings.kind == "vae":
    program = vae.make_program(settings, LPIPSConfig())
  else:
    program = dit.make_program(settings)
  state = program.abstract()
  assert jax.tree.leaves(state.params) and jax.tree.leaves(state.opt)


def longest_prompt(settings, path):
  """Text tokens of the longest prompt that a run's clips can have."""
  if path.stem not in EMBEDDED:
    return settings.text.max_tokens
  longest = lambda words: max(words, key=lambda word: len(word.split()))
  item = dict(
    size=longest(shapes.SIZES), color=longest(shapes.COLORS),
    shape=longest(shapes.SHAPES), speed=longest(shapes.SPEEDS),
    direction=longest(shapes.DIRECTIONS),
  )  # fmt: skip
  scene = dict(objects=[item], background=longest(shapes.BACKGROUNDS))
  caption = shapes.caption(scene, settings.encode.max_frames)
  files = t5_tokenizer_files([caption])
  tokenizer = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
  return len(tokenizer.encode(caption).ids)


def longest_clips(settings, source, prompt):
  """A dataset of one clip of each size, as long as any of the source."""
  encode, space, time = (
    settings.encode,
    2 ** sum(settings.vae.down_space),
    2 ** sum(settings.vae.down_time),
  )
  most = source.frames[1] if source.frames else encode.max_frames
  images = encode.image_sizes if most == 1 else ()
  height, width = np.array(images or encode.sizes).T // space
  metadata = latents.Metadata(
    "vae", "text", settings.vae.latent_channels, settings.model.text_dim,
    settings.model.pooled_dim, latents.Statistics(0.0, 1.0, 0.0, 1.0),
  )  # fmt: skip
  null = latents.NullPrompt(np.zeros((1, metadata.text_dim)), np.zeros(1))
  frames = np.full_like(height, 1 + (most - 1) // time)
  text = np.full_like(height, prompt)
  lengths = latents.Lengths(frames, height, width, text)
  return latents.LatentStore(
    pathlib.Path(source.path), metadata, null, lengths, source.path, None
  )


@pytest.mark.parametrize(
  "run", [run for run, made in RUNS.items() if load(*made)[1].kind == "dit"]
)
def test_the_longest_clip_and_prompt_of_a_run_fit_its_rows_and_model(run):
  path, *_ = RUNS[run]
  _, settings = load(*RUNS[run])
  prompt = longest_prompt(settings, path)
  data = settings.latents
  stores = [longest_clips(settings, s, prompt) for s in data.sources]
  plan = (data, settings.flow, settings.model.patch, settings.seed)
  Curriculum(stores, *plan)  # refuses what does not fit
  dit_task._require_fit(settings, stores)
  dit.check_row(settings, "tpu")
  prompt = data.text_tokens // data.segments_per_clip + 1
  stores = [longest_clips(settings, s, prompt) for s in data.sources]
  with pytest.raises(ConfigError, match="Raise config.latents.text_tokens to"):
    Curriculum(stores, *plan)


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
