"""What is compared: sizes, tasks and the settings of every variant."""

import dataclasses

from studies import BASE, MOTION_BASE, STILLS_BASE


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
  steps={
    "clips": (150, 300, 600),
    "stills": (400, 800, 1600),
    "images": (1200,),
    "motion": (400, 800),
  },
  scored={"clips": 32, "stills": 128, "motion": 128},
  long=32,
  long_frames=65,
  latents=80,
)
TINY = Size(
  (0,),
  steps={
    "clips": (20, 21),
    "stills": (20, 21),
    "images": (21,),
    "motion": (21,),
  },
  scored={"clips": 2, "stills": 2, "motion": 2},
  long=1,
  long_frames=33,
  latents=4,
)
STEPS_A_UNIT = 12  # of the sampler, shared out among the stages


def pyramid(stages: int, text_tokens: int) -> dict:
  """The settings of a number of stages, at equal places and sampling steps."""
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
    settings: in place of those of configs/shapes_cpu.py; what is scored has
      generate.frames, too.
    latents: name of their folder.
    clips: name of the folder with the true ones and their captions.
    after: the task whose weights a run starts from.
  """

  settings: dict
  latents: str = "latents"
  clips: str = "shapes"
  after: str = ""


# A constant rate makes an earlier step of a run the end of a shorter one.
ALL = {
  "latents.periods": (),
  "train.save_every": 10**6,
  "train.keep": 1,
}
# A token is one latent value in place, so that four stages fit into 8 x 8
# latents, and no patch hides what happens within a block.
UNPATCHED = {
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
}
TASKS = {
  "clips": Task({**UNPATCHED, **pyramid(3, 96)}),
  # the paper's Fig. 7 is of images; alone they are learned in the same time
  "stills": Task(
    {
      **UNPATCHED,
      "optimizer.learning_rate": 5e-3,
      "optimizer.ema": 0.99,
      "generate.frames": 1,
      **pyramid(3, 144),
    },
    latents="image_latents",
    clips="images",
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
  STILLS_BASE: Variant(task="stills", over_compute=True),
  "1 stage, images": Variant(pyramid(1, 72), task="stills", over_compute=True),
  "no corrective noise, images": Variant(
    task="stills", sampled_as=("--norenoise",)
  ),
  "2 stages, images": Variant(pyramid(2, 112), task="stills"),
  "4 stages, images": Variant(pyramid(4, 176), task="stills"),
  "gamma 0, images": Variant({"flow.gamma": 0.0}, task="stills"),
  "gamma 1/9, images": Variant({"flow.gamma": 1 / 9}, task="stills"),
  "gamma 2/9, images": Variant({"flow.gamma": 2 / 9}, task="stills"),
  "stages 1:2:1, images": Variant(
    {"latents.stage_weights": (1.0, 2.0, 1.0)}, task="stills"
  ),
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
