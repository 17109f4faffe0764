"""Ablations are trained, measured and told, on small sizes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.test_benchmarks_full import ENVIRONMENT, SCRIPTS, run

SHORT = """
import runpy

def get_config(kind="dit"):
  config = runpy.run_path("configs/shapes_cpu.py")["get_config"](kind)
  phase = dict(steps=2, batch=4, frames=1, height=64, width=64)
  config.videos.phases, config.train.steps = (phase,), 2
  config.vae.channels = (4, 4, 4, 4)
  config.optimizer.update(method="adamw", warmup=0)
  return config
"""


@pytest.fixture(scope="module")
def shapes_folder(tmp_path_factory):
  """What the ablations share, made by the commands that they name."""
  folder = tmp_path_factory.mktemp("shapes_cpu")
  (folder / "config.py").write_text(SHORT)
  config = f"--config={folder}/config.py"
  text = f"--config.text.path={folder}/text"
  for command in (
    ("shapes", f"--out={folder}/shapes", f"--text={folder}/text",
     "--clips=24", "--heldout=8"),
    ("train", f"{config}:vae", f"--workdir={folder}/vae",
     f"--data={folder}/shapes"),
    ("encode", config, text, f"--vae={folder}/vae",
     f"--videos={folder}/shapes", f"--out={folder}/latents"),
    ("shapes", f"--out={folder}/images", f"--text={folder}/text",
     "--clips=24", "--heldout=8", "--frames=1", "--seed=1"),
    ("encode", config, text, f"--vae={folder}/vae",
     f"--videos={folder}/images", f"--out={folder}/image_latents",
     "--config.encode.max_frames=1", "--config.encode.min_frames=1"),
  ):  # fmt: skip
    name, *arguments = command
    result = subprocess.run(
      [sys.executable, "-m", f"pyramid_jax.cli.{name}", *arguments],
      cwd=SCRIPTS.parent,
      env=ENVIRONMENT,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 0, result.stderr
  return folder


def test_an_ablation_is_run_once_and_the_page_tells_what_was(
  tmp_path, shapes_folder
):
  def go_on(*more):
    kept = f"--kept={tmp_path}/ablations.json"
    return run(
      f"--folder={shapes_folder}", kept, "--tiny", *more, script="ablations"
    )

  first = go_on("--only=renoising", "--most=1")
  assert first.returncode == 0, first.stderr
  assert "== pyramid, seed 0" in first.stdout
  page = tmp_path / "ablations.md"
  assert "| Corrective renoising | " in page.read_text()
  assert "## Corrective renoising" not in page.read_text()  # nothing beside it
  assert not (tmp_path / "ablations_blocks.png").exists()
  assert "== no corrective noise" in go_on("--only=renoising").stdout
  kept = json.loads((tmp_path / "ablations.json").read_text())
  with_noise, without = (
    kept[f"{name}, seed 0"]["over compute"]["21"]
    for name in ("pyramid", "no corrective noise")
  )
  assert with_noise["work"] == without["work"]  # the same weights
  assert with_noise["blocks"] != without["blocks"]
  assert with_noise["blocks of true clips"] == without["blocks of true clips"]
  blocks = f"{without['blocks']['inside']:.3f}"
  assert f"| no corrective noise | {blocks} | " in page.read_text()
  for name in ("ablations.png", "ablations_blocks.png"):
    assert (tmp_path / name).stat().st_size > 5000
  assert "==" not in go_on("--only=renoising").stdout
  listed = go_on("--list").stdout.splitlines()
  to_come = [line.split()[0] == "-" for line in listed]
  assert to_come[:2] == [False] * 2 and len(to_come) > 2 and all(to_come[2:])


@pytest.mark.parametrize(
  "study, title, other",
  [
    ("coupling", "Coupled endpoints", "independent noise"),
    ("corruption", "Corrupted history", "clean history"),
    ("spatial on images", "Spatial pyramid, images", "1 stage, images"),
  ],
)
def test_a_study_measures_what_its_page_shows(
  tmp_path, shapes_folder, study, title, other
):
  kept = tmp_path / "ablations.json"
  result = run(
    f"--folder={shapes_folder}", f"--work={tmp_path}/work", f"--kept={kept}",
    "--tiny", f"--only={study}", script="ablations",
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  records = json.loads(kept.read_text())
  assert len(records) == 2 and f"{other}, seed 0" in records
  ours, theirs = records.values()
  assert ours["over compute"]["21"]["frechet"] > 0
  assert ours["over compute"]["21"] != theirs["over compute"]["21"]
  section = kept.with_suffix(".md").read_text().split(f"\n## {title}\n")[1]
  section = section.split("\n## ")[0]
  assert f"\n| {other} | " in section and "Together: **" in section
  assert "| a training step | " in section
  if study == "coupling":
    bends = theirs["paths"]["straightness"]
    assert f"\n| {other} | {np.mean(bends):.3f} | " in section
  elif study == "corruption":
    assert [len(r["long"]["windows"]) for r in (ours, theirs)] == [2, 2]
    assert all("still" in w for w in theirs["long"]["windows"])
  else:
    assert [*theirs["over compute"]] == ["20", "21"]
    assert all(f"\n| {step} steps | " in section for step in (20, 21))


def test_a_folder_without_latents_is_told_how_to_make_them(tmp_path):
  result = run(f"--folder={tmp_path}", "--most=0", script="ablations")
  assert result.returncode == 2
  assert (
    f"{tmp_path} lacks text, vae, shapes, latents, images, image_latents"
    in result.stderr
  )
  assert "pyramid-encode --config=configs/shapes_cpu.py" in result.stderr
