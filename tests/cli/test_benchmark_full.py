"""A benchmark's clips: made by two processes, gone on with, compared."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from pyramid_jax.data import shapes, video
from pyramid_jax.evals import features
from pyramid_jax.generate import export
from tests import commands
from tests.cli.test_processes import free_port
from tests.cli.test_score import run, score
from tests.commands import refused


def generate(workdirs, folder, *more, name="vbench"):
  return (
    "generate", f"workdir={workdirs.dit}", f"benchmark={name}",
    f"prompts={folder}/prompts.txt", f"out={folder}/clips", *more,
  )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
  return tmp_path


def test_a_benchmark_is_resumed_clip_by_clip(workdirs, folder):
  flags = generate(workdirs, folder, "frames=9", "batch=4")
  assert (result := commands.run(*flags)).code == 0, result.err
  assert "2 prompts and 10 clips; the full set has 944 and 6220" in result.err
  assert "9 frames a clip; published results have 121" in result.err
  clips = folder / "clips"
  made = {p.name: p.read_bytes() for p in clips.iterdir()}
  assert sorted(made) == [
    f"{prompt}-{i}.mp4"
    for prompt in ("a blue square", "a red circle")
    for i in range(5)
  ]
  assert len(set(made.values())) == 10  # all differ, of one prompt too
  formats = {export.format_of(path) for path in clips.iterdir()}
  assert formats == {video.Format(24.0, 9, 32, 32)}
  assert run("clips", clips, "part=true").code == 0
  lost = ["a red circle-3.mp4", "a blue square-0.mp4"]
  before = {name: export.read_mp4(clips / name) for name in made}
  times = {p.name: p.stat().st_mtime_ns for p in clips.iterdir()}
  (clips / lost[0]).unlink()
  whole = (clips / lost[1]).read_bytes()
  (clips / lost[1]).write_bytes(whole[: len(whole) // 2])  # a copy that ended
  result = run("clips", clips)
  assert result.code == 1 and "8 of 10 clips" in result.out
  # in another batch, beside others
  result = commands.run(*flags[:-1], "batch=8")
  assert "10 clips, 8 of them from before" in result.out
  assert f"{lost[1]} is damaged; it is made again" in result.err
  for path in clips.iterdir():
    kept = path.stat().st_mtime_ns == times[path.name]
    assert kept == (path.name not in lost)
  far = lambda a, b: np.abs(a.astype(float) - b).mean()
  for name in lost:
    (was, told), (frames, tells) = before[name], export.read_mp4(clips / name)
    assert tells == told
    # rounding in another batch, seen through H.264; another sample is far off
    others = [far(was, clip) for x, (clip, _) in before.items() if x != name]
    assert far(was, frames) < min(1.0, 0.1 * min(others))
  refused(r"begun otherwise \(seed 0, now 1\)", *flags, "seed=1")
  refused(r"begun otherwise \(frames 9, now 5\)", *flags[:-2], "frames=5")


def test_images_for_coco_are_numbered(workdirs, folder):
  result = commands.run(*generate(workdirs, folder, name="coco"))
  assert result.code == 0, result.err
  images = sorted(p.name for p in (folder / "clips").iterdir())
  assert images == ["0000.png", "0001.png"]
  made = json.loads((folder / "clips.json").read_text())
  assert made["frames"] == 1 and made["benchmark"] == "coco"
  assert run("clips", folder / "clips", "part=true").code == 0


def test_flags_that_have_no_place_are_told(workdirs, folder):
  for flag in ("prompt=a", "heldout=x", "image=a.png", "change=1: b"):
    refused(
      f"--{flag.split('=')[0]} has no place", *generate(workdirs, folder, flag)
    )
  refused("--samples: the bench", *generate(workdirs, folder, "samples=2"))
  refused(
    "several processes make only the clips of a --benchmark",
    "generate", f"workdir={workdirs.dit}", "prompt=a", "out=a.mp4",
    "distributed",
  )  # fmt: skip


def both(module, *arguments):
  """Runs a command as two processes; what each printed."""
  port = free_port()
  started = [
    subprocess.Popen(
      [
        sys.executable, "-m", f"pyramid_jax.cli.{module}", *arguments,
        f"--coordinator=localhost:{port}", "--processes=2", f"--process={i}",
      ],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    for i in range(2)
  ]  # fmt: skip
  try:
    ended = [process.communicate(timeout=500) for process in started]
  finally:
    for process in started:
      process.kill()
  assert [p.returncode for p in started] == [0, 0], ended
  return [out for out, _ in ended]


def without_features():
  """No clip has features that are not finite; a broken VAE would give them."""
  pooled = features.pooled
  features.pooled = lambda z, cells: np.nan * pooled(z, cells)


def test_two_processes_share_the_clips_and_the_comparison(workdirs, folder):
  command, *flags = generate(workdirs, folder, "frames=9")
  outs = both(command, *(f"--{flag}" for flag in flags))
  assert all("clips: 5 clips, 0 of them from before" in out for out in outs)
  clips = folder / "clips"
  assert len(list(clips.iterdir())) == 10
  assert run("clips", clips, "part=true").code == 0
  for i in range(5):
    clip = shapes.render(1, i, 9, 32, 32).video
    export.write_clip(folder / f"real/{i}.mp4", clip, 24)
  arguments = ["frechet", f"{folder}/real", str(clips), f"--vae={workdirs.vae}"]
  one = run(*arguments[:-1], arguments[-1].removeprefix("--"))
  first, second = both("score", *arguments)
  assert "distance" not in second  # the first reports
  found = [
    float(re.search("Frechet distance (.*?):", x)[1]) for x in (one.out, first)
  ]
  assert "5 real and 10 generated files" in first
  for count in (5, 10):
    assert f"{count} samples are fewer than needed for 128 features" in one.err
  refused(
    r"features of .*real/0\.mp4 and 4 more are not finite; look at the file",
    *score(*arguments[:-1], arguments[-1].removeprefix("--")), files=True,
    before=without_features,
  )  # fmt: skip
  # clips are encoded in other batches: float32 rounding
  np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
