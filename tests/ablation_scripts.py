"""The scripts of benchmarks/ablations."""

import importlib
import pathlib
import sys
from types import ModuleType

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ROOT / "benchmarks" / "ablations"


def load() -> dict[str, ModuleType]:
  """The modules, by name; they stay imported, as __main__.py needs them."""
  names = [path.stem for path in sorted(SCRIPTS.glob("[!_]*.py"))]
  sys.path.insert(0, str(SCRIPTS))
  try:
    return {name: importlib.import_module(name) for name in names}
  finally:
    sys.path.remove(str(SCRIPTS))
