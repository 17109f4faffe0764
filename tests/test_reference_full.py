"""Reference files: what was committed, and what is compared."""

import pathlib
import re

import numpy as np

from pyramid_jax.verify.run import KINDS
from tests import reference

README = pathlib.Path(__file__).parents[1] / "README.md"
FILES = [*reference.COMMITTED.glob("*.npz"), *reference.SHARED.glob("*.npz")]

# cases that take much room, by file
LARGE = {
  "vae_tiled": ("in/A/", "out/A/"),
  "vae_chunk": ("in/T25/", "out/T25/", "in/T33/", "out/T33/"),
  "vae_video": ("in/T17/", "out/T17/"),
  "vae_loss": ("out/vae_rec",),
}


def test_nothing_but_what_is_said_was_left_out():
  """Intermediates, what no output needs, gradients of all runs but one."""
  for file in sorted(reference.COMMITTED.glob("*.npz")):
    whole = reference.SHARED / file.name
    if not whole.exists():  # a checkout alone has the committed files only
      continue
    committed, shared = map(reference.read, (file, whole))
    assert committed.config == shared.config
    assert committed.arrays.keys() <= shared.arrays.keys()
    for key, array in committed.arrays.items():
      np.testing.assert_array_equal(array, shared[key])
    left_out = shared.arrays.keys() - committed.arrays.keys()
    rest = [k for k in left_out if not k.startswith(LARGE.get(file.stem, ()))]
    assert not [k for k in rest if k.startswith(("param", "out/"))]
    runs = {k.split("/")[1] for k in left_out if k.startswith("grad/")}
    kept = {k.split("/")[1] for k in committed.arrays if k.startswith("grad/")}
    assert not runs or kept, file


def test_every_file_is_of_a_kind_that_is_compared():
  kinds = {
    reference.kind(reference.read(file))
    for file in FILES
    if file.stem != "vae_weights"
  }
  assert kinds <= KINDS.keys()


def test_the_table_of_errors_has_every_committed_file_with_all_its_arrays():
  """That of `pyramid-verify tests/goldens/*.npz --table`, in the README."""
  rows = re.findall(
    r"^\| (\w+) \| (\d+) \| `(\S+)` \| \S+ (?:abs|of max) \|$",
    README.read_text(), re.MULTILINE,
  )  # fmt: skip
  files = map(reference.read, sorted(reference.COMMITTED.glob("*.npz")))
  compared = {
    file.name: [k for k in file.arrays if k.startswith(("out", "grad"))]
    for file in files
    if reference.kind(file) != "weights"
  }
  counts = {name: str(len(keys)) for name, keys in compared.items()}
  assert {name: count for name, count, _ in rows} == counts
  assert len(rows) == len(counts)
  for name, _, worst in rows:
    assert worst in compared[name]
