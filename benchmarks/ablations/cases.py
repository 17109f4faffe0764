"""What is run: every variant with every seed, by commands."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import resource
import runpy
import subprocess
import sys
from typing import Any

import results
from flax import traverse_util
from studies import BASE, MOTION_BASE, STILLS_BASE
from variants import STARTS, TASKS, VARIANTS, Size, Variant

from pyramid_jax import checkpoint
from pyramid_jax.cli import compilation
from pyramid_jax.config import Config

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "shapes_cpu.py"


def flat(tree: dict) -> dict[str, Any]:
  """The leaves of settings, by name."""
  return traverse_util.flatten_dict(tree, sep=".")


def usual_settings() -> dict[str, Any]:
  """What is so where nothing sets it, by name."""
  return flat(dataclasses.asdict(Config()))


def config_settings() -> dict[str, Any]:
  """How a transformer of CONFIG learns and samples, defaults too, by name.

  What its latents are made with is in their fingerprint.
  """
  chosen = flat(runpy.run_path(str(CONFIG))["get_config"]("dit").to_dict())
  parts = ("model", "flow", "latents", "optimizer", "generate")
  return {
    name: value
    for name, value in chosen.items()
    if name.split(".")[0] in parts and name != "latents.sources"
  }


def base_settings() -> dict[str, Any]:
  """Those of them that are no defaults."""
  usual = usual_settings()
  return {k: v for k, v in config_settings().items() if v != usual.get(k)}


def digest(text: str) -> str:
  """Tells texts apart."""
  return hashlib.sha256(text.encode()).hexdigest()


def command(*arguments: str) -> None:
  """Runs a command of the project, or a script, to its end.

  Raises:
    SystemExit: it failed; it has said why.
  """
  environment = {
    # as the commands do: what one seed has compiled, another finds
    "JAX_COMPILATION_CACHE_DIR": os.path.expanduser(compilation.FOLDER),
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  }  # fmt: skip
  code = subprocess.run(
    [sys.executable, *arguments], env=environment
  ).returncode
  if code:
    raise SystemExit(code)


def cpu_seconds() -> float:
  """Of all commands so far."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def flags(variant: Variant, seed: int, folder: pathlib.Path) -> list[str]:
  """What pyramid-train gets, apart from the number of steps."""
  task = TASKS[variant.task]
  values = {
    **task.settings,
    "text.path": str(folder / "text"),
    "videos.path": str(folder / task.clips),
    "seed": seed,
    **variant.settings,
  }
  return [f"--config.{name}={value}" for name, value in values.items()]


MARK = "latents="  # of a VAE's latents, among a case's settings


def marks(settings: list[str]) -> list[str]:
  """The latents of a case's settings; its own first, then those before."""
  return [x.removeprefix(MARK) for x in settings if x.startswith(MARK)]


def apart_from_latents(settings: list[str]) -> list[str]:
  """The other settings."""
  return [x for x in settings if not x.startswith(MARK)]


def measured_alike(cases: "list[Case]", kept: dict) -> dict[str, list[dict]]:
  """The records of each variant, a seed each, with those of a task comparable.

  Tasks may be of different VAEs. Within a task, what counts is on the same
  latents as the first of `cases` that was measured.
  """
  found: dict[str, list[dict]] = {case.name: [] for case in cases}
  latents: dict[str, list[str]] = {}
  for case in cases:
    if case.comparable(kept):
      record, task = kept[case.key], case.variant.task
      theirs = marks(record["settings"])
      if latents.setdefault(task, theirs) == theirs:
        found[case.name].append({"seed": case.seed, **record})
  return found


@dataclasses.dataclass(frozen=True)
class Case:
  """A variant with a seed.

  Attributes:
    name: of the variant.
    seed: of everything that is drawn.
    size: how much is run.
    shared: folder with the parts that all variants share.
    work: folder of all cases.
  """

  name: str
  seed: int
  size: Size
  shared: pathlib.Path
  work: pathlib.Path

  @property
  def key(self) -> str:
    """Its name among the results."""
    return f"{self.name}, seed {self.seed}"

  @property
  def variant(self) -> Variant:
    """What is special about it."""
    return {**STARTS, **VARIANTS}[self.name]

  @property
  def steps(self) -> tuple[int, ...]:
    """Those at which it is measured."""
    every = self.size.steps[self.variant.task]
    return every if self.variant.over_compute else every[-1:]

  @property
  def settings(self) -> list[str]:
    """What it is made with; with another setting it is another case."""
    size, variant = self.size, self.variant
    ours = {**TASKS[variant.task].settings, **variant.settings}
    # with the defaults: one that changes makes another case
    rest = {k: v for k, v in config_settings().items() if k not in ours}
    much = {
      "config": digest(repr(sorted(rest.items())))[:12],
      "steps": self.steps,
      "scored": size.scored.get(variant.task, 0),
      **({"long": (size.long, size.long_frames)} if variant.long else {}),
      "clips": size.latents,
    }
    return [
      *flags(variant, self.seed, pathlib.Path("FOLDER")),
      *variant.sampled_as,
      *(f"{name}={value}" for name, value in much.items()),
      f"{MARK}{self.fingerprint}",
      *(self.start.settings if self.start else []),
    ]

  @property
  def latents(self) -> pathlib.Path:
    """The ones that it is trained on."""
    return self.shared / TASKS[self.variant.task].latents

  @property
  def fingerprint(self) -> str:
    """Of its latents: those of another VAE make another case."""
    path = self.latents / "metadata.json"
    if not path.exists():
      return "missing"
    return json.loads(path.read_text())["fingerprint"][:12]

  @property
  def heldout(self) -> pathlib.Path:
    """Latents of true clips, which all cases of one VAE share."""
    name = f"heldout_{self.fingerprint}_{2 * self.size.latents}.npz"
    return self.work / name

  @property
  def start(self) -> "Case | None":
    """The training from whose weights it starts."""
    after = TASKS[self.variant.task].after
    return dataclasses.replace(self, name=after) if after else None

  def done(self, kept: dict) -> bool:
    """Whether it was measured with these very settings."""
    return kept.get(self.key, {}).get("settings") == self.settings

  def otherwise(self, kept: dict) -> str:
    """What a record of its name was measured with instead; empty if alike."""
    theirs = kept.get(self.key, {}).get("settings", self.settings)
    if marks(theirs) != marks(self.settings):
      of = [", ".join(marks(x)) for x in (theirs, self.settings)]
      return "latents {}, not {}".format(*of)
    return "" if theirs == self.settings else "other settings"

  def comparable(self, kept: dict) -> bool:
    """Whether it was measured with these settings, on whichever latents."""
    theirs = kept.get(self.key, {}).get("settings", [])
    return apart_from_latents(theirs) == apart_from_latents(self.settings)

  @property
  def folder(self) -> pathlib.Path:
    """Of its clips."""
    name = re.sub("[^a-z0-9]+", "_", self.name)
    mark = digest("".join(self.settings))[:6]
    return self.work / f"{name}_{self.seed}_{mark}"

  @property
  def trained(self) -> "Case":
    """The case whose weights it has."""
    if not self.variant.sampled_as:
      return self
    bases = {"clips": BASE, "stills": STILLS_BASE, "motion": MOTION_BASE}
    return dataclasses.replace(self, name=bases[self.variant.task])

  @property
  def workdir(self) -> pathlib.Path:
    """Of the weights."""
    return self.trained.folder / "run"

  def run(self) -> dict:
    """Trains and measures; what a stopped run has left is used."""
    began, found = cpu_seconds(), {}
    if self.start:
      with results.locked(self.start.folder):
        self.start.train(self.start.steps[-1])
    for step in self.steps:
      if not self.measured(step):
        self.trained.train(step)
      found[str(step)] = {
        **self.scores(f"step_{step}", self.size.scored[self.variant.task]),
        **self.measure(f"step_{step}"),
      }
    result = {"over compute": found}
    if self.variant.long:
      result["long"] = self.scores(
        "long", self.size.long, self.size.long_frames
      )
    if self.variant.paths:
      result["paths"] = self.measure("paths", "--paths")
    return {
      "settings": self.settings, **result, "cpu seconds": cpu_seconds() - began
    }  # fmt: skip

  def measured(self, step: int) -> bool:
    """Whether its clips and latents at a step were looked at before."""
    name = f"step_{step}"
    files = (self.folder / name / "results.json", self.folder / f"{name}.json")
    return all(file.exists() for file in files)

  def train(self, steps: int) -> None:
    """To a step; goes on from the checkpoint that is there.

    Raises:
      SystemExit: it is past that step.
    """
    reached = checkpoint.latest_step(self.workdir) or 0
    if reached > steps:
      raise SystemExit(
        f"{self.workdir} is at step {reached}, and step {steps} was not "
        "measured; remove the folder to train it again."
      )
    command(
      "-m", "pyramid_jax.cli.train", f"--config={CONFIG}",
      f"--workdir={self.workdir}", f"--data={self.latents}",
      f"--config.train.steps={steps}",
      *([f"--config.train.init={self.start.workdir}"] if self.start else []),
      *flags(self.variant, self.seed, self.shared),
    )  # fmt: skip

  def scores(self, part: str, clips: int, frames: int | None = None) -> dict:
    """What pyramid-evaluate reads from clips; as long as the task's."""
    out = self.folder / part
    if not (out / "results.json").exists():
      command(
        "-m", "pyramid_jax.cli.evaluate", f"--workdir={self.workdir}",
        f"--out={out}", f"--n={clips}", f"--seed={self.seed}", "--batch=16",
        *([f"--frames={frames}"] if frames else []), *self.variant.sampled_as,
      )  # fmt: skip
    summary = results.load(out / "results.json")["summary"]
    rate = lambda x: x["hits"] / (x["n"] or math.nan)  # nan: of nothing
    rates = [rate(x) for x in summary["attributes"].values()]
    return {
      "all correct": rate(summary["all correct"]),
      "attributes": sum(rates) / len(rates),
      "flicker": summary["flicker"],
      "color drift": summary["color drift"],
      "shape drift": summary["shape drift"],
      "windows": [
        {
          "n": w["kept"]["n"],
          "kept": rate(w["kept"]),
          "still n": w["still"]["n"],  # right in the first quarter
          "still": rate(w["still"]),
          "color change": w["color change"],
          # clips with an object in both; not counted by an earlier version
          "color change n": w.get("color change n", math.nan),
        }
        for w in summary["windows"]
      ],
    }

  def measure(self, part: str, *more: str) -> dict:
    """What measure.py finds in latents."""
    out = self.folder / f"{part}.json"
    if not out.exists():
      command(
        str(pathlib.Path(__file__).with_name("measure.py")),
        f"--workdir={self.workdir}", f"--heldout={self.heldout}",
        f"--clips={self.size.latents}", f"--seed={self.seed}", f"--out={out}",
        *self.variant.sampled_as, *more,
      )  # fmt: skip
    return results.load(out)
