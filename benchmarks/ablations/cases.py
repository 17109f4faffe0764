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
from studies import BASE, MOTION_BASE

from pyramid_jax import checkpoint
from pyramid_jax.cli import compilation
from pyramid_jax.config import Config

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "shapes_cpu.py"


@dataclasses.dataclass(frozen=True)
class Size:
  """How much is run.

  Attributes:
    seeds: of each variant.
    steps: of a task's training at which variants are measured; the last ends
      it, and many are measured there alone.
    scored: clips that are read, of a task's variants.
    long: clips of `long_frames`, four times the training length.
    long_frames: 4 x 16 + 1.
    latents: clips whose latents are compared with as many true ones.
  """

  seeds: tuple[int, ...]
  steps: dict[str, tuple[int, ...]]
  scored: dict[str, int]
  long: int
  long_frames: int
  latents: int


FULL = Size(
  (0, 1, 2),
  steps={"clips": (150, 300, 600), "images": (1200,), "motion": (400, 800)},
  scored={"clips": 32, "motion": 128},
  long=32,
  long_frames=65,
  latents=80,
)
TINY = Size(
  (0,),
  steps={"clips": (20, 21), "images": (21,), "motion": (21,)},
  scored={"clips": 2, "motion": 2},
  long=1,
  long_frames=33,
  latents=4,
)
STEPS_A_UNIT = 12  # of the sampler, shared out among the stages


def pyramid(stages: int, text_tokens: int) -> dict:
  """The settings of a number of stages, at equal tokens and sampling steps."""
  steps = (STEPS_A_UNIT // stages,) * stages
  return {
    "flow.stages": stages,
    "flow.stage_range": tuple(k / stages for k in range(stages + 1)),
    "latents.latent_tokens": 512 - text_tokens,
    "latents.text_tokens": text_tokens,
    "generate.steps": steps,
    "generate.video_steps": steps,
  }


@dataclasses.dataclass(frozen=True)
class Task:
  """What is learned.

  Attributes:
    settings: in place of those of configs/shapes_cpu.py.
    latents: name of their folder.
    after: the task whose weights a run starts from.
  """

  settings: dict
  latents: str = "latents"
  after: str = ""


# A constant rate makes an earlier step of a run the end of a shorter one.
ALL = {
  "latents.periods": (),
  "train.save_every": 10**6,
  "train.keep": 1,
}
TASKS = {
  # A token is one latent value in place, so that four stages fit into 8 x 8
  # latents, and no patch hides what happens within a block.
  "clips": Task(
    {
      "model.patch": 1,
      "model.table_size": 8,
      "model.layers": 4,
      "model.heads": 3,
      "latents.rows": 2,
      "latents.segments": 24,
      "latents.stage_weights": (),
      "latents.window": 512,
      "optimizer.schedule": "constant",
      **ALL,
      **pyramid(3, 96),
    }
  ),
  # What later frames do is seen only where the first shows an object; with
  # images alone, all attention and all history are the same.
  "images": Task(ALL, latents="image_latents"),
  "motion": Task(
    {
      "optimizer.schedule": "constant",
      "optimizer.learning_rate": 5e-3,
      "optimizer.ema": 0.99,
      **ALL,
    },
    after="images",
  ),
}


@dataclasses.dataclass(frozen=True)
class Variant:
  """Settings that differ, and what is measured besides the scores.

  Attributes:
    settings: in place of those of its task.
    task: what is learned.
    sampled_as: flags of the sampler; the weights are then the task's base's.
    over_compute: measured at earlier steps, too.
    long: clips of four times the length.
    paths: how straight the paths are, and errors of few steps.
  """

  settings: dict = dataclasses.field(default_factory=dict)
  task: str = "clips"
  sampled_as: tuple[str, ...] = ()
  over_compute: bool = False
  long: bool = False
  paths: bool = False


VARIANTS = {
  BASE: Variant(over_compute=True, paths=True),
  "no corrective noise": Variant(sampled_as=("--norenoise",)),
  "1 stage": Variant(pyramid(1, 48), over_compute=True),
  "independent noise": Variant({"flow.coupled": False}, paths=True),
  "2 stages": Variant(pyramid(2, 80)),
  "4 stages": Variant(pyramid(4, 128)),
  "gamma 0": Variant({"flow.gamma": 0.0}),
  "gamma 1/9": Variant({"flow.gamma": 1 / 9}),
  "gamma 2/9": Variant({"flow.gamma": 2 / 9}),
  "stages 1:2:1": Variant({"latents.stage_weights": (1.0, 2.0, 1.0)}),
  MOTION_BASE: Variant(task="motion", over_compute=True, long=True),
  "full sequence": Variant(
    {
      "flow.history": "none",
      "model.causal": False,
      # as many tokens; its samples are longer
      "latents.latent_tokens": 112,
      "latents.text_tokens": 56,
    },
    task="motion",
    over_compute=True,
  ),
  "no corrective noise, after images": Variant(
    task="motion", sampled_as=("--norenoise",)
  ),
  "bidirectional": Variant({"model.causal": False}, task="motion", long=True),
  "clean history": Variant(
    {"flow.max_corruption": 0.0}, task="motion", long=True
  ),
}
STARTS = {"images": Variant(task="images")}  # trained once a seed, not scored


def base_settings() -> dict[str, Any]:
  """What CONFIG sets of how a transformer learns and samples, by name.

  What its latents are made with is in their fingerprint.
  """
  flat = lambda tree: traverse_util.flatten_dict(tree, sep=".")
  usual = flat(dataclasses.asdict(Config()))
  chosen = flat(runpy.run_path(str(CONFIG))["get_config"]("dit").to_dict())
  parts = ("model", "flow", "latents", "optimizer", "generate")
  return {
    name: value
    for name, value in chosen.items()
    if name.split(".")[0] in parts
    and name != "latents.sources"
    and value != usual.get(name)
  }


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
  values = {
    **TASKS[variant.task].settings,
    "text.path": str(folder / "text"),
    "videos.path": str(folder / "shapes"),
    "seed": seed,
    **variant.settings,
  }
  return [f"--config.{name}={value}" for name, value in values.items()]


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
    rest = {k: v for k, v in base_settings().items() if k not in ours}
    much = {
      "config": digest(repr(sorted(rest.items())))[:12],
      "steps": self.steps,
      "scored": size.scored.get(variant.task, 0),
      **({"long": (size.long, size.long_frames)} if variant.long else {}),
      "clips": size.latents,
      "latents": self.fingerprint,
    }
    return [
      *flags(variant, self.seed, pathlib.Path("FOLDER")),
      *variant.sampled_as,
      *(f"{name}={value}" for name, value in much.items()),
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
    base = {"clips": BASE, "motion": MOTION_BASE}[self.variant.task]
    return dataclasses.replace(self, name=base)

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

  def scores(self, part: str, clips: int, frames: int = 17) -> dict:
    """What pyramid-evaluate reads from clips."""
    out = self.folder / part
    if not (out / "results.json").exists():
      command(
        "-m", "pyramid_jax.cli.evaluate", f"--workdir={self.workdir}",
        f"--out={out}", f"--n={clips}", f"--seed={self.seed}", "--batch=16",
        f"--frames={frames}", *self.variant.sampled_as,
      )  # fmt: skip
    summary = json.loads((out / "results.json").read_text())["summary"]
    rates = [x["hits"] / x["n"] for x in summary["attributes"].values()]
    right = summary["all correct"]
    return {
      "all correct": right["hits"] / right["n"],
      "attributes": sum(rates) / len(rates),
      "flicker": summary["flicker"],
      "color drift": summary["color drift"],
      "shape drift": summary["shape drift"],
      "windows": [
        {
          "n": w["kept"]["n"],
          "kept": w["kept"]["hits"] / (w["kept"]["n"] or math.nan),
          "color change": w["color change"],
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
    return json.loads(out.read_text())
