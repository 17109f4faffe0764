"""What every test shares: eight fake devices, and what `--full` adds."""

import os
import pickle
import tempfile
import time

import pytest

from tests.compiling import QUICKLY

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    QUICKLY,
  ]
)
# Programs that several tests build are compiled once, by whichever worker.
if "PYTEST_XDIST_WORKER" not in os.environ:
  CACHE = tempfile.TemporaryDirectory(prefix="pyramid-jax-tests-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


def pytest_addoption(parser):
  parser.addoption(
    "--full",
    action="store_true",
    help="also run what takes longer or needs torch",
  )


def pytest_configure(config):
  """Tests that compare with reference files ask which of them are wanted."""
  if config.option.full:
    os.environ["PYRAMID_FULL"] = "1"


def pytest_ignore_collect(collection_path, config):
  """Files named *_full.py are not even collected without --full."""
  if collection_path.name.endswith("_full.py") and not config.option.full:
    return True
  return None


def pytest_collection_modifyitems(items):
  """What takes long comes first, so that no worker is left with it alone."""
  slow = ("tests", "train", "verify", "cli", "models", "generate", "convert")
  place = lambda name: slow.index(name) if name in slow else len(slow)
  items.sort(key=lambda item: place(item.path.parent.name))


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory):
  """A dataset, VAE, latents and transformer, made by the commands.

  The first worker that asks for them makes them; the other waits.
  """
  from tests import whole_path  # imports our package, after the lines above

  base = tmp_path_factory.getbasetemp()
  shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
  folder, done = shared / "workdirs", shared / "workdirs.pickle"
  try:
    folder.mkdir()
  except FileExistsError:
    for _ in range(1200):
      if done.exists():
        return pickle.loads(done.read_bytes())
      time.sleep(0.5)
    raise TimeoutError(f"{folder} was not made by the other worker") from None
  made = whole_path.make(folder)
  beside = done.with_suffix(".partial")
  beside.write_bytes(pickle.dumps(made))
  beside.rename(done)
  return made
