"""--config, for the commands that read one."""

import pathlib
import re
import runpy

from ml_collections import config_flags

from pyramid_jax.config import Config, ConfigError, check_path, from_dict

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "File in configs/, for example configs/tiny.py or configs/tiny.py:vae. "
  "--config.train.steps=100 changes a setting; pyramid_jax/config.py lists "
  "them.",
)


def get() -> Config:
  """The run that --config and its overrides describe.

  Raises:
    ConfigError: it holds what we do not know.
  """
  return from_dict(Config, CONFIG.value)


def check(argv: list[str]):
  """Refuses, before anything is parsed, what would be told less clearly then.

  Raises:
    ConfigError: a file that is not there, or an override of no setting.
  """
  for argument, following in zip(argv, [*argv[1:], ""], strict=True):
    if match := re.match(r"--?config\.([^=]+)", argument):
      check_path(match[1])
    if match := re.match(r"--?config(=(.*))?$", argument):
      path = (match[2] if match[1] else following).split(":")[0]
      if not pathlib.Path(path).is_file():
        raise ConfigError(f"--config: there is no file {path!r}.")


def read(path: str) -> Config:
  """The run of another file, such as configs/mmdit_2b_384p.py:2s.

  Raises:
    ConfigError: there is no such file, or it holds what we do not know.
  """
  file, _, argument = path.partition(":")
  if not pathlib.Path(file).is_file():
    raise ConfigError(f"there is no config file {file!r}.")
  get_config = runpy.run_path(file)["get_config"]
  return from_dict(Config, get_config(argument) if argument else get_config())
