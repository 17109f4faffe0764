"""The paper's ablations on the embedded dataset.

  python benchmarks/ablations --folder=runs/shapes_cpu           # all of it
  python benchmarks/ablations --folder=runs/shapes_cpu --most=2  # two more
  python benchmarks/ablations --list                  # what there is to run
  python benchmarks/ablations --only=renoising        # one study

Every variant changes a few settings of a small transformer, which pyramid-train
trains from three seeds on the latents of FOLDER; pyramid-evaluate scores clips
of held-out captions, and measure.py looks at latents. Those about later frames
go on from a training on images that they share.
What is measured is kept at once in FOLDER/ablations/ablations.json (with --tiny
in ablations_tiny.json), so that the same command goes on after it was stopped;
it ends with a page of all that is kept, ablations.md beside it. Those in docs
change only with --kept=docs/ablations.json; a record of other latents or
settings is replaced only with --replace. Started several times, the commands
share the cases: one a core is faster than one on all.
"""

import argparse
import collections
import pathlib
import sys

import document
import pictures
import results
import sections
from cases import (
  Case,
  base_settings,
  marks,
  measured_alike,
  usual_settings,
)
from studies import BASE, STUDIES
from variants import FULL, STEPS_A_UNIT, TASKS, TINY, VARIANTS

from pyramid_jax import checkpoint

MADE_BY = """  pyramid-shapes --out=F/shapes --text=F/text --clips=1536
  pyramid-shapes --out=F/images --text=F/text --clips=4096 --frames=1 --seed=1
  pyramid-train --config=configs/shapes_cpu.py:vae --workdir=F/vae \\
    --data=F/shapes
  pyramid-encode --config=configs/shapes_cpu.py --config.text.path=F/text \\
    --vae=F/vae --videos=F/shapes --out=F/latents
  pyramid-encode --config=configs/shapes_cpu.py --config.text.path=F/text \\
    --vae=F/vae --videos=F/images --out=F/image_latents \\
    --config.encode.max_frames=1 --config.encode.min_frames=1"""


def check_folder(folder: pathlib.Path, chosen: list[Case]) -> None:
  """Refuses a folder without the parts that the chosen cases need.

  Raises:
    SystemExit: names what is missing and the commands that make it.
  """
  trained = [*chosen, *(case.start for case in chosen if case.start)]
  tasks = [TASKS[case.variant.task] for case in trained]
  stores = [name for task in tasks for name in (task.clips, task.latents)]
  parts = {
    "text": "", "vae": "checkpoints", **dict.fromkeys(stores, "metadata.json")
  }  # fmt: skip
  missing = [k for k, file in parts.items() if not (folder / k / file).exists()]
  if missing:
    print(
      f"{folder} lacks {', '.join(missing)}; with F={folder} these make it:\n"
      f"{MADE_BY}",
      file=sys.stderr,
    )
    raise SystemExit(2)


def run_missing(chosen: list[Case], path: pathlib.Path, most: int) -> None:
  """Runs what is not kept yet, apart from what another command is at."""
  for case in chosen:
    with results.locked(case.trained.folder, wait=False) as ours:
      kept = results.load(path)
      # weights that another case trains are its own until it is measured
      ready = case.trained == case or case.trained.done(kept)
      if ours and most and ready and not case.done(kept):
        print(f"== {case.key}", flush=True)
        results.add(path, case.key, case.run())
        most -= 1


def check_kept(chosen: list[Case], path: pathlib.Path) -> None:
  """Refuses to replace what was measured in another way.

  Raises:
    SystemExit: names the first such record and what was different.
  """
  kept = results.load(path)
  for case in chosen:
    if how := case.otherwise(kept):
      raise SystemExit(
        f"{path} has {case.key!r}, measured with {how}; keep it and name "
        "another file with --kept, or lose it with --replace."
      )


def notes_of(found: dict, kept: dict) -> dict[str, dict]:
  """What was noted by hand of the latents of each task that was measured."""
  notes = {}
  for name, records in found.items():
    if records:
      mark, *_ = marks(records[0]["settings"])
      notes.setdefault(VARIANTS[name].task, kept.get(f"latents {mark}", {}))
  return notes


def of_tasks(notes: dict[str, dict], key: str, default: str) -> str:
  """What is noted of tasks; of which, if not the same of all."""
  tasks: dict[str, list[str]] = {}
  for task, note in notes.items():
    tasks.setdefault(note.get(key, default), []).append(task)
  if len(tasks) < 2:
    return next(iter(tasks), default)
  return "; ".join(f"of {', '.join(v)}: {k}" for k, v in tasks.items())


def write_document(cases: list[Case], kept: dict, path: pathlib.Path) -> None:
  """Writes the page and its pictures from the cases that are done."""
  found = measured_alike(cases, kept)
  size, clips = cases[0].size, TASKS["clips"].settings
  base = base_settings()
  notes = notes_of(found, kept)
  vae_steps = checkpoint.latest_step(cases[0].shared / "vae")
  remarks = [note.get("studies", {}) for note in notes.values()]
  document.write(
    found, path, len(size.seeds), dict(collections.ChainMap(*remarks)),
    layers=clips["model.layers"], width=32 * clips["model.heads"],
    rows=clips["latents.rows"], sampling=STEPS_A_UNIT,
    tokens=clips["latents.latent_tokens"] + clips["latents.text_tokens"],
    steps=size.steps["clips"][-1], image_steps=size.steps["images"][-1],
    motion_steps=size.steps["motion"][-1], scored=size.scored["clips"],
    motion_scored=size.scored["motion"], stills_steps=size.steps["stills"][-1],
    stills_scored=size.scored["stills"], latents=size.latents,
    vae=of_tasks(notes, "VAE", f"{vae_steps} steps"),
    machine=of_tasks(notes, "machine", "not noted"),
    blocks=notes.get("clips", {}).get("blocks", ""),
    seeds=len(size.seeds), features=2 * base["model.latent_channels"],
    settings=sections.settings(usual_settings(), base),
  )  # fmt: skip


def show_blocks(cases: list[Case], path: pathlib.Path) -> None:
  """A sheet of clips with and without corrective noise, once both are there."""
  first = {c.name: c for c in cases if c.seed == cases[0].seed}
  clips = [
    first[name].folder / f"step_{first[name].steps[-1]}" / "clips"
    for name in (BASE, "no corrective noise")
  ]
  if all(folder.exists() for folder in clips):
    shapes = cases[0].shared / "shapes"
    pictures.block_sheet(path, shapes, *clips)


def main() -> int:
  """Runs the cases that are missing and writes the document."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--folder", type=pathlib.Path, default=pathlib.Path("runs/shapes_cpu"),
      help="with shapes, text, vae and latents")  # fmt: skip
  add("--work", type=pathlib.Path, help="of the runs; FOLDER/ablations")
  add("--kept", type=pathlib.Path,
      help="results; the page and pictures stand beside; "
           "WORK/ablations.json, with --tiny ablations_tiny.json")  # fmt: skip
  add("--replace", action="store_true",
      help="records in it of other latents or settings, too")  # fmt: skip
  add("--most", type=int, default=1000, help="cases now")
  add("--only", choices=[*STUDIES], help="a study")
  add("--list", action="store_true", help="what there is to run")
  add("--tiny", action="store_true", help="a few steps, one seed")
  given = parser.parse_args()
  size = TINY if given.tiny else FULL
  work = given.work or given.folder / "ablations"
  name = "ablations_tiny.json" if given.tiny else "ablations.json"
  path = given.kept or work / name
  cases = [
    Case(name, seed, size, given.folder, work)
    for seed in size.seeds
    for name in VARIANTS
  ]
  wanted = VARIANTS
  if given.only:
    wanted = STUDIES[given.only].variants
  chosen = [case for case in cases if case.name in wanted]
  if given.list:
    kept = results.load(path)
    for case in chosen:
      took = (
        f"{kept[case.key]['cpu seconds']:.0f} s" if case.done(kept) else "-"
      )
      print(f"{took:>7}  {case.key}")
    return 0
  check_folder(given.folder, chosen)
  if given.most and not given.replace:
    check_kept(chosen, path)
  run_missing(chosen, path, given.most)
  show_blocks(cases, path.with_name(f"{path.stem}_blocks.png"))
  write_document(cases, results.load(path), path.with_suffix(".md"))
  return 0


if __name__ == "__main__":
  sys.exit(main())
