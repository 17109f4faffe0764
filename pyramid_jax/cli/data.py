"""pyramid-data: what stored datasets hold, and whether they can be mixed.

  pyramid-data info latents
  pyramid-data info latents/384p latents/images --config=configs/my_config.py

Exit code 1 if one is unfinished, cannot be read, or not mixed with the others.
With --config also the rows that a run makes of them: how full, how many.
"""

from absl import flags

from pyramid_jax.cli import app
from pyramid_jax.cli import config as config_flag
from pyramid_jax.config import UserError

flags.declare_key_flag("config")


def main(arguments: list[str]) -> int:
  """Prints the report on the folders."""
  if len(arguments) < 2 or arguments[0] != "info":
    raise UserError("say what and of which folders: pyramid-data info DIR ...")
  # here, so that mistakes in flags are told before libraries are imported
  from pyramid_jax.data import info

  config = config_flag.get() if config_flag.CONFIG.value else None
  text, good = info.report(arguments[1:], config)
  print(text)
  return 0 if good else 1


def run():
  """Entry point."""
  app.run(main, config_flag.check, arguments=True)


if __name__ == "__main__":
  run()
