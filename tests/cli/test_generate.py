"""What cannot be generated is one clear line and exit code 2."""

import numpy as np
import PIL.Image
import pytest

from tests import commands
from tests.commands import fill_disk, refused
from tests.data import videos


def generate(workdir, out, *more):
  return "generate", f"workdir={workdir}", f"out={out}", *more


PROMPT = "prompt=a red circle"
REQUESTS = {
  "ending": (["x.avi", PROMPT], r"x\.avi must end in \.mp4, \.gif or \.png\.$"),
  "one file": (
    ["x.mp4", PROMPT, "prompt=b"],
    r"^--out=x\.mp4 is one file for 2 clips; name a folder\.$",
  ),
  "prompts": (["x.mp4", "prompts=none.txt"], r"--prompts: none\.txt is not a"),
  "sheet": (["x.mp4", PROMPT, "sheet=s.jpg"], r"--sheet=s\.jpg must end"),
  "batch": (["x.mp4", PROMPT, "batch=0"], r"--batch=0: .*"),
  "heldout": (["x", "heldout=none"], r"none is not a complete dataset"),
  "height": (
    ["x.mp4", PROMPT, "height=36"],
    r"^height 36 is not a multiple of 8 \(2\^\(2-1\) x patch 2 x VAE 2\); "
    r"nearest: 32\.$",
  ),
  "steps": (
    ["x.mp4", PROMPT, "steps=1,2,3"],
    r"steps is \(1, 2, 3\); give .* each of the 2 stages",
  ),
  "no steps": (["x.mp4", PROMPT, "video_steps=a,b"], r"--video_steps=a,b is"),
  "change": (["x.mp4", PROMPT, "change=blue"], r"--change='blue' is not UNIT"),
  "unit": (["x.mp4", PROMPT, "change=9: b"], r"at unit 9: .* 1 to 2 can"),
  "no image": (["x.mp4", PROMPT, "image=none.png"], r"none\.png does not"),
  "both": (
    ["x.mp4", PROMPT, "image=a.png", "video=a.mp4"], r"--image or --video, not",
  ),
  "unwritable": (["/proc/none/x.mp4", PROMPT], r"/proc/none/x\.mp4 cannot"),
  "frames": (["x.mp4", PROMPT, "frames=4"], r"frames 4 is not 2 n \+ 1 .*: 5"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, message", REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_cannot_be_met_is_told(workdirs, arguments, message):
  refused(message, *generate(workdirs.dit, *arguments))


def test_a_workdir_that_cannot_generate_is_told(tmp_path, workdirs):
  out = f"{tmp_path}/x.mp4"
  refused(
    r"none has no checkpoint \(none in .*none/checkpoints\)\. Give the "
    r"--workdir of a finished pyramid-train, or",
    *generate(tmp_path / "none", out, PROMPT),
  )
  refused(
    r"holds a checkpoint of kind 'vae'; this needs one of kind 'dit'",
    *generate(workdirs.vae, out, PROMPT),
  )
  refused(
    r"trained with the vae of none, which is not there; say with --vae where",
    *generate(workdirs.dit, out, PROMPT, "vae=none"),
  )
  assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_half_of_a_picture(tmp_path, workdirs):
  refused(
    r"^the disk is full\. Free some space and run the same command again\.$",
    *generate(workdirs.dit, tmp_path / "x.png", PROMPT),
    before=fill_disk,
  )
  assert not list(tmp_path.iterdir())


def interrupt():
  from pyramid_jax.generate import pipeline

  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  pipeline.Pipeline.load = interrupted


def test_an_interruption_is_one_line(tmp_path, workdirs):
  result = commands.run(
    *generate(workdirs.dit, tmp_path / "x.mp4", PROMPT), before=interrupt
  )
  assert result.code == 130
  assert result.err == "pyramid-generate: error: interrupted\n"


def test_files_that_cannot_be_gone_on_from_are_told(tmp_path, workdirs):
  here = lambda name: f"{tmp_path}/{name}"
  (tmp_path / "text.png").write_text("no picture")
  PIL.Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
  videos.write_video(tmp_path / "short.mp4", np.zeros((5, 32, 32, 3), np.uint8))
  for flags, message in (
    (["image=" + here("text.png")], r"text\.png cannot be used as image: "),
    (
      ["video=" + here("short.mp4"), "frames=17"],
      r"as video: too short: 5 frames .* 9 are",
    ),
    (
      ["video=" + here("short.mp4")],
      r"a video takes 9 frames at least and leaves 8; frames is 5, .* 17",
    ),
    (["image=" + here("a.png")] * 2, r"2 files to go on from for 1 prompts"),
    (
      ["image=" + here("a.png"), "frames=1"],
      r"^1 given frames leave nothing to generate of frames 1; make it 3 or",
    ),
  ):
    refused(message, *generate(workdirs.dit, here("x.mp4"), PROMPT, *flags))
  assert not list(tmp_path.glob("*x.mp4*"))
