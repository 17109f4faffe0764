"""What goes wrong by a user's hand is one clear line and exit code 2."""

import configparser
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from tests import commands, tiny
from tests.commands import fill_disk, refused
from tests.data import random_store, videos

ROOT = pathlib.Path(__file__).parents[2]
TINY = f"config={ROOT}/configs/tiny.py"
SMALL = f"config={tiny.__file__}"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
COMMANDS = re.findall(
  r"^pyramid-(\w+) =",
  SETUP["options.entry_points"]["console_scripts"],
  re.MULTILINE,
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does_and_every_flag(command):
  result = commands.run(command, "help")
  assert (result.code, result.err) == (0, "")
  assert result.out.startswith(f"pyramid-{command}: ")
  assert result.out.count(f"pyramid-{command} ") >= 1  # an example
  flags = [x for x in result.out.splitlines() if x.startswith("  --")]
  least = 1 if command == "data" else 3
  assert len(flags) >= least and all(len(flag.split()) > 2 for flag in flags)
  assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize(
  "command, missing",
  [
    ("shapes", ["out", "text"]),
    ("train", ["config", "workdir"]),
    ("encode", ["config", "videos", "vae", "out"]),
    ("generate", ["workdir", "out", "prompt"]),
  ],
)
def test_without_arguments_a_command_says_what_is_missing(command, missing):
  error = commands.run(command).error
  named = re.findall(r"--(\w+) \(", error)
  assert named == missing
  assert error.endswith("are missing; see --help.")


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["size=20"], "20 x 20 is too small .* at least 32"),
    (["frames=10"], r"frames 10 is not 8 n \+ 1; nearest: 9"),
    (["clips=0"], "clips 0 and heldout 64 must be at least 1"),
    (["size=x"], "flag --size=x: invalid literal"),
  ],
)
def test_a_dataset_that_cannot_be_is_told(tmp_path, arguments, message):
  refused(
    message, "shapes", f"out={tmp_path}/a", f"text={tmp_path}/b", *arguments
  )
  assert not list(tmp_path.iterdir())


def test_text_encoders_that_are_there_are_of_the_kind_that_is_asked_for(
  tmp_path, workdirs
):
  shapes = ("clips=2", "heldout=1", "size=32", "frames=9", f"out={tmp_path}/a")
  text = shutil.copytree(workdirs.text, tmp_path / "text")
  (tmp_path / "empty").mkdir()
  refused(
    r"--text=.*text is there and has no text encoders of --text_kind=flux \(.*"
    r"text_encoder_2/config\.json, .*Name another folder",
    "shapes", *shapes, f"text={text}", "text_kind=flux",
  )  # fmt: skip
  refused(
    r"--text=.*empty is there and has no text encoders of --text_kind=sd3",
    "shapes", *shapes, f"text={tmp_path}/empty",
  )  # fmt: skip
  assert not (tmp_path / "a").exists()
  result = commands.run("shapes", *shapes, f"text={text}")
  assert result.code == 0, result.err
  assert "text (they were there, and are kept as they are)" in result.out


@pytest.fixture
def clips(tmp_path):
  """A folder with one clip, and what pyramid-encode needs beside."""
  folder = tmp_path / "clips"
  folder.mkdir()
  videos.write_video(folder / "a.mp4", videos.numbered(9))
  return folder


def encode(tmp_path, source, config=SMALL, vae="no/vae", *more):
  return (
    "encode", config, f"videos={source}", f"vae={vae}",
    f"out={tmp_path}/store", *more,
  )  # fmt: skip


@pytest.mark.parametrize(
  "setting, message",
  [
    (
      "encode.sizes=((100,64),)",
      r"^height 100 is not a multiple of 64 \(2\^\(3-1\) x patch 2 x VAE 8\); "
      r"nearest: 128\.$",
    ),
    ("encode.sizes=((64,96),)", r"^width 96 is not a multiple of 64"),
    ("encode.max_frames=16", r"^frames 16 is not 8 n \+ 1 .*; nearest: 17"),
  ],
)
def test_a_size_that_the_pyramid_cannot_divide_is_told(
  tmp_path, clips, setting, message
):
  refused(
    message, *encode(tmp_path, clips, TINY, "no/vae", f"config.{setting}")
  )
  assert not (tmp_path / "store").exists()


def test_a_dataset_whose_size_does_not_fit_is_told(tmp_path, workdirs):
  refused(
    "height 32 is not a multiple of 64",
    *encode(tmp_path, workdirs.shapes, TINY),
  )
  assert not (tmp_path / "store").exists()


def test_a_folder_without_videos_is_told(tmp_path):
  (tmp_path / "empty").mkdir()
  refused(
    r"empty has no videos or images", *encode(tmp_path, tmp_path / "empty")
  )
  refused(r"none does not exist; give a folder", *encode(tmp_path, "none"))
  assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
  "line, message",
  [
    ("{video: b.mp4}", r"list\.jsonl:1: not JSON \(.*\); a line looks like "),
    ('{"video": "b.mp4"}', r"list\.jsonl:1: needs \"text\" and either"),
    ('{"video": 3, "text": "b"}', r"list\.jsonl:1: path, text and sha256 must"),
  ],
)
def test_a_manifest_without_one_good_line_is_told_with_the_first_bad_one(
  tmp_path, line, message
):
  manifest = tmp_path / "list.jsonl"
  manifest.write_text(line + "\n")
  refused(
    f"names 1 inputs of which none can be used; the first: {message}",
    *encode(tmp_path, manifest),
  )
  assert not (tmp_path / "store").exists()


def test_files_are_looked_at_without_encoders(tmp_path, clips):
  (clips / "broken.mp4").write_bytes(b"no video")
  result = commands.run(
    "encode", SMALL, f"videos={clips}", f"out={tmp_path}/look", "inspect"
  )
  assert result.code == 0, result.err
  lines = result.out.splitlines()
  assert lines[0].startswith("2 inputs: 1 videos and 0 images can be used, 1 a")
  for line, name in zip(
    lines[-2:], ("files.tsv", "contact_sheet.png"), strict=True
  ):
    assert line.endswith(f"look/{name}") and (tmp_path / "look" / name).exists()


def test_encoders_that_are_not_there_are_told(tmp_path, clips, workdirs):
  refused(
    r"^no/vae has no checkpoint \(none in .*\)\. Give the --workdir of",
    *encode(tmp_path, clips),
  )
  refused(
    r"dit holds a checkpoint of kind 'dit'; this needs one of kind 'vae'",
    *encode(tmp_path, clips, SMALL, workdirs.dit),
  )
  refused(
    r"^config\.text\.path is empty; name the folder",
    *encode(tmp_path, clips, SMALL, workdirs.vae),
  )
  refused(
    r"none/text_encoder/config\.json does not exist; the folder must have",
    *encode(tmp_path, clips, SMALL, workdirs.vae, "config.text.path=none"),
  )
  assert not (tmp_path / "store").exists()


def test_a_store_of_other_clips_is_not_touched(tmp_path, clips, workdirs):
  shutil.copytree(workdirs.latents, tmp_path / "store")
  before = {p: p.read_bytes() for p in (tmp_path / "store").iterdir()}
  refused(
    r"store holds a store made with other inputs or settings: other inputs "
    r"\(\d+ -> 1\)",
    *encode(
      tmp_path, clips, SMALL, workdirs.vae,
      f"config.text.path={workdirs.text}",
    ),
  )  # fmt: skip
  assert {p: p.read_bytes() for p in (tmp_path / "store").iterdir()} == before


def test_latents_are_not_written_among_other_files(tmp_path, clips, workdirs):
  """Which would be unusable from then on."""
  before = {p: p.read_bytes() for p in clips.iterdir()}
  text = f"config.text.path={workdirs.text}"
  for out in (clips, clips / "latents"):
    refused(
      r"^--out=.* is (in )?the folder of --videos=.*; name another one",
      "encode", SMALL, f"videos={clips}", f"vae={workdirs.vae}",
      f"out={out}", text,
    )  # fmt: skip
  refused(
    r"holds other files \(.*\); choose a new or empty folder",
    "encode", SMALL, f"videos={clips}", f"vae={workdirs.vae}",
    f"out={workdirs.vae}", text,
  )  # fmt: skip
  assert {p: p.read_bytes() for p in clips.iterdir()} == before
  assert not (workdirs.vae / "writing.json").exists()


def test_clips_that_change_on_the_way_are_told_of(tmp_path, clips, workdirs):
  videos.write_video(clips / "long.mp4", videos.numbered(12))
  (clips / "long.txt").write_text(
    " ".join(["moves"] * 127 + ["background"] * 9)
  )
  (clips / "broken.mp4").write_bytes(b"no video")
  result = commands.run(
    *encode(
      tmp_path, clips, SMALL, workdirs.vae,
      f"config.text.path={workdirs.text}", "config.encode.max_frames=17",
    )
  )  # fmt: skip
  assert result.code == 0, result.err
  rest = " ".join(["background"] * 9)
  assert result.err.splitlines() == [
    f"prompt cut at 128 T5 tokens; left out: '{rest}'",
    "long.mp4: trimmed to 9 frames (8 n + 1); 3 left out",
  ]
  lines = result.out.splitlines()
  assert lines[0].startswith("2 of 3 inputs stored: 2 videos of ")
  assert lines[4:6] == [
    "1 clips lost frames at their end (8 n + 1)",
    "1 inputs left out, see skipped.jsonl:",
  ]
  (line,) = (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()
  assert json.loads(line)["id"] == "broken.mp4"


def train(workdir, data, *more):
  return "train", SMALL, f"workdir={workdir}", f"data={data}", *more


def test_data_that_do_not_fit_are_told(tmp_path):
  random_store.write(tmp_path / "other", 8)
  refused(
    r"none holds no stored latents \(no metadata\.json\); write them with",
    *train(tmp_path / "run", "none"),
  )
  refused(
    r"^config\.model\.text_dim is 64, but the stored dataset .*other has 6\. S",
    *train(tmp_path / "run", tmp_path / "other"),
  )
  widths = ("config.model.text_dim=6", "config.model.pooled_dim=3")
  refused(
    r"^config\.model\.table_size is 8, but clips of .*other are up to 12 patch",
    *train(tmp_path / "run", tmp_path / "other", *widths),
  )
  refused(
    r"^config\.flow: gamma 0\.5 is outside of \[0, 1/3\]",
    *train(tmp_path / "run", tmp_path / "other", "config.flow.gamma=0.5"),
  )
  assert not (tmp_path / "run").exists()


def test_a_file_in_the_place_of_a_workdir_is_told(tmp_path, workdirs):
  (tmp_path / "run").write_text("mine")
  refused(
    r"run.*: (Not a directory|File exists)\.$",
    *train(tmp_path / "run", workdirs.latents),
  )
  assert (tmp_path / "run").read_text() == "mine"


@pytest.fixture
def run(workdirs, tmp_path):
  """A trained workdir that a test may spoil."""
  return shutil.copytree(workdirs.dit, tmp_path / "run")


def checkpoints(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_another_model_in_the_same_workdir_is_told(run, workdirs):
  refused(
    r"run.* was trained with other settings \(its -> now\): config\.model\."
    r"layers: 1 -> 2\. Use the same ones, or another --workdir\.$",
    *train(run, workdirs.latents, "config.model.layers=2",
           "config.train.steps=3"),
  )  # fmt: skip
  refused(
    r"\(its -> now\): config\.kind: 'dit' -> 'vae'",
    "train", f"{SMALL}:vae", f"workdir={run}", f"data={workdirs.shapes}",
  )  # fmt: skip
  assert checkpoints(run) == [1, 2]


def poison():
  """Makes the third batch of a run infinite."""
  from pyramid_jax.train import dit_task

  batches = dit_task.pipeline.batches

  def poisoned(stores, planner, spec, start, places):
    for n, rows in enumerate(batches(stores, planner, spec, start, places)):
      if start // planner.config.rows + n == 2:
        rows["clean"] = np.full_like(rows["clean"], np.inf)
      yield rows

  dit_task.pipeline.batches = poisoned


def test_a_loss_that_is_not_finite_stops_the_run(run, workdirs):
  refused(
    r"^step 3: the loss or its gradient is not finite in rows 16 to 23; 1 such "
    r"steps, max_nonfinite is 0\. .* newest checkpoint is good",
    *train(run, workdirs.latents, "config.train.steps=4"),
    before=poison,
  )
  assert checkpoints(run) == [1, 2]
  result = commands.run(*train(run, workdirs.latents, "config.train.steps=3"))
  assert result.code == 0  # goes on from the last good step
  assert checkpoints(run) == [1, 2, 3]


def test_a_trace_of_chosen_steps_is_written_and_the_start_is_timed(
  run, workdirs
):
  result = commands.run(
    *train(run, workdirs.latents, "config.train.steps=5",
           "config.train.profile=(4,5)")
  )  # fmt: skip
  assert result.code == 0, result.err
  assert re.search(r"^first step after \d+\.\d s$", result.out, re.MULTILINE)
  assert f"trace of steps 4 to 5: {run}/profile\n" in result.out
  (trace,) = (run / "profile").rglob("*.xplane.pb")
  assert trace.stat().st_size > 1000
  refused(
    r"^config\.train\.profile is \(5, 4\); it must be \(first, last\)",
    *train(run, workdirs.latents, "config.train.steps=6",
           "config.train.profile=(5,4)"),
  )  # fmt: skip


def test_a_full_disk_keeps_the_checkpoint_of_before(run, workdirs):
  refused(
    r"^the disk of .*run/checkpoints is full; this checkpoint was not written, "
    r"earlier ones are whole\. Free some space and start the same command",
    *train(run, workdirs.latents, "config.train.steps=3"),
    before=fill_disk,
  )
  assert checkpoints(run) == [1, 2]
