"""--config: a wrong file, argument or setting is one clear line."""

import pathlib
import re

import pytest

from tests.commands import refused

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TINY = f"config={CONFIGS}/tiny.py"
CONFIG = {
  "no flag": (["workdri=x"], r"Unknown command line flag 'workdri'.*workdir"),
  "no flags": (["flagfile=none"], r"^Unable to open flagfile: .*'none'$"),
  "no file": (["config=none.py"], r"^there is no config file 'none\.py'\.$"),
  "kind": ([f"{TINY}:gan"], r"tiny\.py:.*kind is 'gan'; .* 'vae', 'dit'"),
  "no argument": (
    [f"config={CONFIGS}/mmdit_2b_image.py:5s"],
    r"^\S+mmdit_2b_image\.py:5s: its get_config takes no argument; say \S+/"
    r"mmdit_2b_image\.py alone\.$",
  ),
  "run": (
    [f"config={CONFIGS}/curriculum.py:mmdit"],
    r"curriculum\.py:mmdit, line \d+: 'mmdit' is none of mmdit_image, ",
  ),
  "setting": (
    [TINY, "config.model.layrs=3"],
    r"^config\.model\.layrs is not a setting; did you mean config\.model\."
    r"layers\? Settings of config\.model: kind, layers, ",
  ),
  "group": ([TINY, "config.modle.layers=3"], r"did you mean config\.model\?"),
  "order": (
    ["config.train.steps=3", TINY],
    r"^--config\.train\.steps=3 comes before --config, .* --config=FILE first",
  ),
  "type": ([TINY, "config.model.layers=x"], r"model\.layers=x: invalid"),
  "range": ([TINY, "config.train.log_every=0"], r"log_every is 0; .* least 1"),
  "choice": ([TINY, "config.model.remat=x"], r"remat is 'x'; .* 'none', '"),
  "index": ([TINY, "config.latents.sources[7].path=x"], r"sources\[7\].*range"),
  "mesh": ([TINY, "config.mesh.data=3"], r"needs 6 devices; there are 8"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, message", CONFIG.values(), ids=CONFIG)
def test_a_setting_that_cannot_be_is_told(tmp_path, arguments, message):
  refused(message, "train", f"workdir={tmp_path}/run", *arguments)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "text, message",
  [
    ("x = 1\ndef get_config(:\n", ", line 2: SyntaxError: invalid syntax"),
    ("\nx = y\n", ", line 2: NameError: name 'y' is not defined"),
    ("import no_such", ", line 1: ModuleNotFoundError: No module named 'no_su"),
    ("\n\ndef get_config():\n  return {}['k']", ", line 4: KeyError: 'k'"),
    ("x = 1\n", ": there is no get_config in it; see configs/tiny.py."),
    ("def get_config():\n  pass\n", ": its get_config returns None; return "),
  ],
)
def test_a_config_file_that_cannot_be_loaded_is_told_with_its_line(
  tmp_path, text, message
):
  file = tmp_path / "my.py"
  file.write_text(text)
  flags = tmp_path / "flags"
  flags.write_text(f"--config={file}\n")
  for flag in (f"config={file}", f"flagfile={flags}"):
    refused(
      f"^{re.escape(f'{file}{message}')}", "train",
      f"workdir={tmp_path}/run", flag,
    )  # fmt: skip
  assert not (tmp_path / "run").exists()


def test_the_file_of_another_stage_that_cannot_be_loaded_is_told(tmp_path):
  plan = ("plan", TINY, "topology=v5e:1x1")
  path = f"{CONFIGS}/mmdit_2b_384p.py:9s"
  refused(
    rf"^{re.escape(path)}, line \d+: '9s' is none of 2s, 5s\.$",
    *plan, f"stages={path}",
  )  # fmt: skip
  other = tmp_path / "my.py"
  other.write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n  return ConfigDict({'sed': 1})\n"
  )
  refused(
    rf"^{re.escape(str(other))}: config\.sed is not a setting",
    *plan, f"stages={other}",
  )  # fmt: skip
