"""--config, for the commands that read one."""

import inspect
import pathlib
import re
import runpy
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from pyramid_jax.cli import app
from pyramid_jax.config import Config, ConfigError, check_path, from_dict

try:
  CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File in configs/, for example configs/tiny.py or configs/tiny.py:vae. "
    "--config.train.steps=100 changes a setting; pyramid_jax/config.py lists "
    "them.",
  )
except flags.Error as error:  # it reads files of flags already
  app.fail(error)


def get() -> Config:
  """The run that --config and its overrides describe.

  Raises:
    ConfigError: it holds what we do not know.
  """
  return from_dict(Config, CONFIG.value)


def check(argv: list[str]):
  """Refuses, before anything is parsed, what would be told less clearly then.

  Raises:
    ConfigError: a file that cannot be loaded, or an override of no setting, or
      before the file.
  """
  named = False
  for argument, following in zip(argv, [*argv[1:], ""], strict=True):
    if match := re.match(r"--?config\.([^=]+)", argument):
      check_path(match[1])
      if not named:
        raise ConfigError(
          f"{argument} comes before --config, which it changes; put "
          "--config=FILE first."
        )
    if match := re.match(r"--?config(=(.*))?$", argument):
      load(match[2] if match[1] else following)
      named = True


def read(path: str) -> Config:
  """The run of another file, such as configs/mmdit_2b_384p.py:2s.

  Raises:
    ConfigError: the file cannot be loaded, or it holds what we do not know.
  """
  values = load(path)
  try:
    return from_dict(Config, values)
  except ConfigError as error:
    raise ConfigError(f"{path}: {error}") from None


def load(path: str) -> ConfigDict:
  """What a file's get_config returns; after a colon, its argument.

  Raises:
    ConfigError: whatever goes wrong there, with the file, its line and what.
  """
  file, *argument = path.split(":", 1)
  if not pathlib.Path(file).is_file():
    raise ConfigError(f"there is no config file {file!r}.")
  try:
    return _get_config(file, *argument)
  except Exception as error:
    known = isinstance(error, ConfigError)
    what = str(error) if known else f"{type(error).__name__}: {error}"
    line = _line(file, error)
    where = f"{path}, line {line}" if line else path
    raise ConfigError(f"{where}: {what}") from error


def _get_config(file: str, *argument: str) -> ConfigDict:
  make = runpy.run_path(file).get("get_config")
  if make is None:
    raise ConfigError("there is no get_config in it; see configs/tiny.py.")
  if argument and not inspect.signature(make).parameters:
    raise ConfigError(f"its get_config takes no argument; say {file} alone.")
  values = make(*argument)
  if not isinstance(values, ConfigDict):
    raise ConfigError(
      f"its get_config returns {values!r}; return settings(...), as "
      "configs/tiny.py does."
    )
  return values


def _line(file: str, error: Exception) -> int | None:
  """The line of the file that an error comes from, if it is known."""
  if isinstance(error, SyntaxError) and error.filename == file:
    return error.lineno
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == file]
  return lines[-1] if lines else None
