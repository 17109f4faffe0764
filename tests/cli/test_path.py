"""The commands one after the other, as the quick start calls them."""

import dataclasses
import json

import av
import numpy as np
import PIL.Image

from pyramid_jax import checkpoint
from pyramid_jax.data import latents
from tests import commands, whole_path


def test_training_reports_its_parameters_losses_and_files(workdirs):
  vae, dit = (workdirs.results[name].out for name in ("vae", "dit"))
  for out, folder in ((vae, workdirs.vae), (dit, workdirs.dit)):
    assert "Total: " in out  # of the parameters
    assert f"checkpoints: {folder}/checkpoints\n" in out
    assert f"metrics: {folder}/metrics.jsonl\n" in out
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [x["loss"] for x in map(json.loads, lines) if "loss" in x]
    assert len(losses) == 2 and np.isfinite(losses).all()
  assert "PSNR on 4 held-out clips: " in vae


def test_every_clip_is_encoded(workdirs):
  store = latents.open_store(workdirs.latents)
  assert len(store) == 12
  assert store[0]["latent"].shape == (5, 16, 16, 4)
  told = workdirs.results["latents"].out
  assert "12 of 12 inputs stored: 12 videos of 0.00125 h (108 frames)" in told
  assert store.metadata.vae_path == str(workdirs.vae)
  assert store.metadata.text_path == str(workdirs.text)


def test_latents_are_normalised_by_the_statistics_of_the_vae(workdirs):
  metas = []
  for folder, kind in ((workdirs.vae, "vae"), (workdirs.dit, "dit")):
    checkpoints, _, meta = checkpoint.open_trained(folder, kind)
    checkpoints.close()
    metas.append(meta)
  vae, dit = metas
  store = latents.open_store(workdirs.latents)
  assert dataclasses.asdict(store.metadata.statistics) == vae["statistics"]
  assert dit["latents"]["statistics"] == vae["statistics"]
  assert vae["statistics"]["scale"] not in (0, 1)


def test_nothing_is_told_where_nothing_is_wrong(workdirs):
  for name, result in workdirs.results.items():
    assert not result.err.strip(), name


def test_the_same_commands_again_keep_what_is_there(workdirs):
  before = {p: p.stat().st_mtime_ns for p in workdirs.folder.rglob("*")}
  for name, arguments in whole_path.steps(workdirs.folder).items():
    result = commands.run(*arguments)
    assert result.code == 0, name
  assert {p: p.stat().st_mtime_ns for p in workdirs.folder.rglob("*")} == before
  assert (
    "was already complete"
    in commands.run(*whole_path.steps(workdirs.folder)["latents"]).out
  )


def test_several_prompts_give_a_clip_each_and_a_sheet(workdirs, tmp_path):
  result = commands.run(
    "generate", f"workdir={workdirs.dit}", "prompt=a red circle",
    "prompt=a blue circle", f"out={tmp_path}/clips",
    f"sheet={tmp_path}/sheet.png", f"compilation_cache={tmp_path}/compiled",
  )  # fmt: skip
  assert result.code == 0, result.err
  assert "programs compiled" in result.out and "transformer" in result.out
  names = ["a-red-circle", "a-blue-circle"]
  files = [tmp_path / "clips" / f"{name}.mp4" for name in names]
  told = [line for line in result.out.splitlines() if line.startswith("/")]
  assert told == [*map(str, files), f"{tmp_path}/sheet.png"]
  for file in files:
    with av.open(str(file)) as container:
      frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
      assert container.streams.video[0].average_rate == 24
      told_of = json.loads(container.metadata["comment"])
      assert told_of["prompt"] == file.stem.replace("-", " ")
      assert told_of["seed"] == 0 and len(told_of["config"]) == 16
    assert np.stack(frames).shape == (5, 32, 32, 3)
  assert PIL.Image.open(tmp_path / "sheet.png").format == "PNG"


def test_an_image_moves_and_a_second_run_compiles_nothing(workdirs, tmp_path):
  PIL.Image.new("RGB", (48, 40), "red").save(tmp_path / "red.png")
  arguments = (
    "generate", f"workdir={workdirs.dit}", "prompt=a red circle", "samples=2",
    f"image={tmp_path}/red.png", f"out={tmp_path}/clips", "low_memory",
    "change=2: a blue circle", f"compilation_cache={tmp_path}/compiled",
  )  # fmt: skip
  first, second = commands.run(*arguments), commands.run(*arguments)
  assert (first.code, second.code) == (0, 0), first.err + second.err
  assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == [
    "a-red-circle-2.mp4", "a-red-circle.mp4",
  ]  # fmt: skip
  for file in (tmp_path / "clips").iterdir():
    with av.open(str(file)) as container:
      assert json.loads(container.metadata["comment"])["given"] == "red.png"
  assert "VAE, given frames" in first.out
  assert "0 programs compiled" not in first.out
  assert " 0 programs compiled" in f" {second.out.splitlines()[-1]}"
