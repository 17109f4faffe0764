"""Who may import whom, read from the source."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "pyramid_jax"

BASE = {"config", "strict"}
MODELS = BASE | {"attention", "sharding", "models"}
DATA = BASE | {"flow", "data"}
STORED = MODELS | {"tensors", "checkpoint"}
TRAINED = STORED | DATA | {"convert"}
ALLOWED = {
  "strict": set(),
  "config": {"strict"},
  "sharding": BASE,
  "tensors": BASE,
  "checkpoint": STORED,
  "flow": {"flow"},
  "attention": {"attention"},
  "models": MODELS,
  "data": DATA,
  "convert": TRAINED,
  "train": TRAINED | {"train"},
  "generate": TRAINED | {"generate"},
  "verify": TRAINED | {"verify"},
  "cost": TRAINED | {"train", "generate", "cost"},
  "evals": TRAINED | {"generate", "evals"},
  "cli": TRAINED | {"train", "generate", "evals", "verify", "cost", "cli"},
}
FORBIDDEN = {"torch", "tensorflow", "diffusers", "transformers"}
# What model code may need: accelerator images often have only these.
PLAIN = {"jax", "flax", "optax", "einops", "numpy"}
STANDARD = sys.stdlib_module_names


def modules():
  return sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py")


def imports(path):
  """(absolute name, is at the top level of the file)."""
  tree = ast.parse(path.read_text())
  top = set(map(id, tree.body))
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, id(node) in top
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      if node.module == "pyramid_jax":
        for alias in node.names:
          yield f"pyramid_jax.{alias.name}", id(node) in top
      else:
        yield node.module, id(node) in top


def part(path):
  return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.stem))
def test_a_module_imports_only_the_layers_below(path):
  for name, _ in imports(path):
    first, *rest = name.split(".")
    alone = path.name == "record_torch.py"  # runs beside the PyTorch code
    assert first not in FORBIDDEN or alone, f"{path} imports {name}"
    assert first != "pyramid_jax" or not alone
    if first == "pyramid_jax":
      assert rest[0] in ALLOWED[part(path)], f"{path} imports {name}"


@pytest.mark.parametrize("folder", ["flow", "attention", "models"])
def test_model_code_needs_nothing_but_jax_and_its_kin(folder):
  for path in [*(ROOT / folder).rglob("*.py"), ROOT / "config.py",
               ROOT / "sharding.py"]:  # fmt: skip
    for name, at_top in imports(path):
      first = name.split(".")[0]
      if at_top and first != "pyramid_jax":
        assert first in PLAIN | STANDARD, f"{path} imports {name}"


def test_every_folder_has_a_place_in_the_table():
  found = {part(p) for p in modules()}
  assert found <= ALLOWED.keys()
