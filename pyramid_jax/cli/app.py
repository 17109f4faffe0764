"""What every command shares: flags in, one clear line out when they are wrong."""

import logging
import sys
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from pyramid_jax.config import Config, ConfigError, from_dict

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "File in configs/, e.g. configs/tiny.py:vae."
)


def config() -> Config:
  """The run that --config and its overrides describe.

  Raises:
    ConfigError: there is no --config, or it holds what we do not know.
  """
  try:
    values = CONFIG.value
  except OSError as error:
    raise ConfigError(f"--config cannot be read: {error}") from error
  if values is None:
    raise ConfigError("--config is missing; for example configs/tiny.py.")
  return from_dict(Config, values)


def run(main: Callable[[], None]):
  """Runs a command; a mistake of the user is one line and exit code 2."""
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  logging.getLogger("pyramid_jax").setLevel(logging.INFO)
  absl_logging.set_verbosity(absl_logging.WARNING)

  def parse(argv):
    try:
      return flags.FLAGS(argv)
    except (flags.Error, KeyError, AttributeError, OSError, TypeError) as error:
      _fail(error)

  def guarded(argv):
    if len(argv) > 1:
      _fail(f"{argv[1]!r} is not understood; flags start with --.")
    try:
      main()
    except ConfigError as error:
      _fail(error)

  app.run(guarded, flags_parser=parse)


def _fail(error: BaseException | str):
  if isinstance(error, KeyError) and error.args:
    error = error.args[0]  # its str is a repr
  lines = (line.strip() for line in str(error).splitlines())
  text = " ".join(line for line in lines if line)
  print(f"{sys.argv[0].rsplit('/', 1)[-1]}: error: {text}", file=sys.stderr)
  raise SystemExit(2)
