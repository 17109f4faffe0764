"""The notebooks run, and are what their paired scripts say."""

import pathlib
import shutil
import sys

import jupytext
import nbclient
import pytest

from tests import tiny

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
# In the place of the cells tagged "parameters": the same way, shorter.
PARAMETERS = {
  "first_clip": f"""
config = "{tiny.__file__}"
out = pathlib.Path("made")
dataset = "--clips=12 --heldout=8 --size=32 --frames=9"
"""
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_the_notebook_is_that_of_the_script_without_outputs(script):
  notebook = jupytext.read(script.with_suffix(".ipynb"))
  source = lambda n: [(c.cell_type, c.source) for c in n.cells]
  assert source(notebook) == source(jupytext.read(script))
  for cell in notebook.cells:
    assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_the_notebook_runs(script, tmp_path, monkeypatch):
  # a kernel that is not installed for the user, and this project's commands
  monkeypatch.setenv(
    "PATH", str(pathlib.Path(sys.executable).parent), prepend=":"
  )
  shutil.copytree(FOLDER.parent / "configs", tmp_path / "configs")
  notebook = jupytext.read(script)
  for cell in notebook.cells:
    if "parameters" in cell.metadata.get("tags", ()):
      cell.source = PARAMETERS[script.stem]
  client = nbclient.NotebookClient(
    notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
  streams = [
    o.text
    for cell in notebook.cells
    for o in cell.get("outputs", ())
    if o.output_type == "stream"
  ]
  assert not [text for text in streams if ": error: " in text]
  assert (tmp_path / "made" / "mine.gif").stat().st_size > 0
  assert (tmp_path / "made" / "samples" / "contact_sheet.png").exists()
