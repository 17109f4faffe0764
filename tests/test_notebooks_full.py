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


def parameters(name, workdirs) -> str:
  """In the place of the cell tagged "parameters": the same way, shorter."""
  return {
    "first_clip": f"""
config = "{tiny.__file__}"
out = pathlib.Path("made")
dataset = "--clips=12 --heldout=8 --size=32 --frames=9"
""",
    "generate": f"""
workdir, low_memory, changes = "{workdirs.dit}", True, dict(guidance=2.0)
prompt, out = "a red circle", pathlib.Path("made")
""",
    "pyramid_flow": "",
  }[name]


# What a notebook leaves behind.
MADE = {
  "first_clip": ["made/mine.gif", "made/samples/contact_sheet.png"],
  "generate": ["made/clip.gif", "made/clip.mp4", "made/again.gif"],
  "pyramid_flow": [],
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_the_notebook_is_that_of_the_script_without_outputs(script):
  notebook = jupytext.read(script.with_suffix(".ipynb"))
  source = lambda n: [(c.cell_type, c.source) for c in n.cells]
  assert source(notebook) == source(jupytext.read(script))
  for cell in notebook.cells:
    assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_the_notebook_runs(script, tmp_path, monkeypatch, workdirs):
  # a kernel that is not installed for the user, and this project's commands
  monkeypatch.setenv(
    "PATH", str(pathlib.Path(sys.executable).parent), prepend=":"
  )
  shutil.copytree(FOLDER.parent / "configs", tmp_path / "configs")
  notebook = jupytext.read(script)
  for cell in notebook.cells:
    if "parameters" in cell.metadata.get("tags", ()):
      cell.source = parameters(script.stem, workdirs)
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
  for file in MADE[script.stem]:
    assert (tmp_path / file).stat().st_size > 0
  if script.stem == "pyramid_flow":
    assert "corrective noise is off by 0.0" in "".join(streams)
    assert "15,360 of 119,040 tokens" in "".join(streams)
