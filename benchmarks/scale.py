"""What the curriculum costs on four machines.

  python benchmarks/scale.py --compile=8   # plans up to 8 cells more, quickly
  python benchmarks/scale.py --compile=8 --platform=cuda
  python benchmarks/scale.py --compile=8 --choices   # other remat and meshes
  python benchmarks/scale.py --largest     # where the picture's curve ends
  python benchmarks/scale_document.py      # makes docs/scale.md of what is kept

Every cell is compiled by `pyramid-plan`, and what the compiler says of it is
kept in docs/scale.json by its stage, machine, mesh and remat; times follow from
that with the peaks and efficiencies of today. An entry whose settings are no
longer the config's counts as none and is made again, as is one that was
deleted. A cell takes minutes on two cores. TPUs need "jax[tpu]", GPUs
"jax[cuda13]" or "jax[cuda12]", no device.
"""

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import runpy
from collections.abc import Iterator

from pyramid_jax.cli.compilers import prepare
from pyramid_jax.config import Config, departures, from_dict
from pyramid_jax.cost import chips, estimate, workload

ROOT = pathlib.Path(__file__).parents[1]
KEPT = ROOT / "docs" / "scale.json"
STAGES = ("image", "384p_2s", "384p_5s", "768p")
MODELS = {"mmdit": "2 B MM-DiT", "miniflux": "miniFLUX"}
# The order in which cells are compiled: what costs most first.
ORDER = [
  (model, stage)
  for stages in (("768p", "384p_5s"), ("384p_2s", "image"))
  for model in ("miniflux", "mmdit")
  for stage in stages
]
# name -> topology, mesh; Google counts v5p by cores, two a chip
MACHINES = {
  "v5p-128": ("v5p:4x4x4", {"data": 2}),
  "v6e-256": ("v6e:16x16", {"tensor": 2}),
  "128 A100": ("a100:128", {"data": -1, "fsdp": 8}),
  "128 H100": ("h100:128", {"data": -1, "fsdp": 8}),
}
COMPILERS = {
  "tpu": ("libtpu",),
  "cuda": ("jax-cuda12-plugin", "jax-cuda13-plugin"),
}
# What the picture's curve is compared with, where it ends.
LARGEST = {"1024 v5p": ("v5p:8x8x16", {"tensor": 8})}
# What is compared on the MM-DiT's 768p: each machine's other meshes.
REMATS = ("layer", "attention", "matmuls", "none")
MESHES = {
  "v5p-128": [{"data": 1}],
  "v6e-256": [{"sequence": 2}, {"data": 4, "fsdp": 32, "tensor": 2}],
  "128 A100": [{"data": 1, "fsdp": -1}],
  "128 H100": [{"data": 1, "fsdp": -1}],
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A stage of a transformer's curriculum on a machine.

  `mesh` and `remat` stand in place of those that are chosen.
  """

  model: str
  stage: str
  machine: str
  mesh: dict[str, int] | None = None
  remat: str = ""

  @property
  def target(self) -> chips.Target:
    """The machine."""
    return chips.target((MACHINES | LARGEST)[self.machine][0])

  @property
  def config(self) -> Config:
    """The stage's run."""
    made = runpy.run_path(str(ROOT / "configs" / "curriculum.py"))
    config = from_dict(Config, made["get_config"](f"{self.model}_{self.stage}"))
    chosen = (MACHINES | LARGEST)[self.machine][1]
    axes = chosen if self.mesh is None else self.mesh
    mesh = dataclasses.replace(config.mesh, **axes)
    remat = self.remat or config.model.remat
    model = dataclasses.replace(config.model, remat=remat)
    return dataclasses.replace(config, mesh=mesh, model=model)

  @property
  def key(self) -> str:
    """Its name among what is kept."""
    mesh = estimate.mesh_of(self.config, self.target)
    axes = [f"{k} {v}" for k, v in mesh.items() if v > 1]
    place = f"{self.model} {self.stage} {self.machine}"
    return f"{place}: {self.config.model.remat}, {', '.join(axes)}"

  @property
  def settings(self) -> str:
    """Short for all settings that its program is made of."""
    config = self.config
    data = config.latents
    used = dict(
      topology=self.target.topology,
      mesh=estimate.mesh_of(config, self.target),
      # so that a setting that is new makes no entry stale
      model=departures(config.model),
      flow=departures(config.flow),
      rows=[data.rows, data.latent_tokens, data.text_tokens, data.segments],
      text=config.text.dtype,
      optimizer=[config.optimizer.method, config.optimizer.muon_iterations],
      microbatches=config.train.microbatches,
    )
    text = json.dumps(used, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cells() -> Iterator[Cell]:
  """All of the tables."""
  for model, stage in ORDER:
    for machine in MACHINES:
      yield Cell(model, stage, machine)


def choices(machine: str) -> Iterator[Cell]:
  """The MM-DiT's 768p with each remat, then with other meshes."""
  cell = Cell("mmdit", "768p", machine)
  for remat in REMATS:
    yield dataclasses.replace(cell, remat=remat)
  for mesh in MESHES[machine]:
    yield dataclasses.replace(cell, mesh=mesh)


def largest() -> Iterator[Cell]:
  """What is compiled for more chips than the tables'."""
  for machine in LARGEST:
    yield Cell("mmdit", "768p", machine)


def kept() -> dict[str, dict]:
  """What the compilers said, by `Cell.key`."""
  return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def known(cell: Cell) -> dict:
  """What is kept of a cell, if its settings still are the config's."""
  entry = kept().get(cell.key, {})
  return entry if entry.get("settings") == cell.settings else {}


def entry_of(cell: Cell, found) -> dict:
  """What is kept of a cell's plan."""
  compiled = dataclasses.asdict(found.compiled)
  compiled["collectives"] = [c._asdict() for c in found.compiled.collectives]
  made_by = versions(found.target.platform)
  return compiled | {"versions": made_by, "settings": cell.settings}


def planned(cell: Cell) -> dict | None:
  """What the document says of a cell; None if it was not compiled."""
  from pyramid_jax.cost import plan
  from pyramid_jax.cost.compile import Compiled
  from pyramid_jax.cost.hlo import Collective

  entry, target = dict(known(cell)), cell.target
  if not entry:
    return None
  del entry["versions"], entry["settings"]
  entry["collectives"] = [Collective(**c) for c in entry["collectives"]]
  refused = math.isnan(entry["traffic"])  # by the compiler, of less memory
  fits = not refused and entry["total"] <= target.memory
  entry |= dict(limit=target.memory, fits=fits)
  row = measured(cell.model, cell.stage, target.chip.tile)
  return summary(plan.of_training(cell.config, target, Compiled(**entry), row))


def compile_cells(wanted: Iterator[Cell], most: int, platform: str) -> None:
  """Compiles up to `most` cells of a platform that are not kept yet."""
  from pyramid_jax.cost import plan

  for cell in wanted:
    target, key = cell.target, cell.key
    if target.platform != platform or known(cell) or most < 1:
      continue
    most -= 1
    (found,) = plan.make(cell.config, target, quick=True)
    keep(kept() | {key: entry_of(cell, found)})
    print(key, summary(found), flush=True)


def keep(entries: dict[str, dict]) -> None:
  """Writes beside, then renames."""
  beside = KEPT.with_suffix(".tmp")
  beside.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
  os.replace(beside, KEPT)


def summary(found) -> dict:
  """What the document says of a plan."""
  compiled = found.compiled
  known = {} if found.run is None else of_run(found.run)
  return dict(
    mesh={k: v for k, v in found.mesh.items() if v > 1},
    remat=found.config.model.remat,
    fits=compiled.fits,
    hbm=round(compiled.total / chips.GIB, 2),
    limit=compiled.limit / chips.GIB,
    **known,
  )


def versions(platform: str) -> dict[str, str]:
  """What compiles for it, as installed."""
  installed = {d.name: d.version for d in importlib.metadata.distributions()}
  wanted = ("jax", *COMPILERS[platform])
  return {name: installed[name] for name in wanted if name in installed}


def of_run(run) -> dict:
  """What the document says of a run's time."""
  return dict(
    **run.estimate._asdict(),
    step=run.estimate.step,
    binds=run.estimate.binds,
    hours=24 * run.days,
    hours_serial=24 * run.days * run.estimate.serial / run.estimate.step,
    chip_hours=run.chip_hours,
    mfu=run.utilisation,
  )


def estimated(cell: Cell) -> dict:
  """A cell by formula."""
  config, target = cell.config, cell.target
  axes = estimate.mesh_of(config, target)
  return dict(
    mesh={k: v for k, v in axes.items() if v > 1},
    remat=config.model.remat,
    **of_run(formula(cell, config, target)),
  )


def formula(cell: Cell, config: Config, target: chips.Target):
  """A run of a cell's rows by formula; `config` may have changed the mesh."""
  from pyramid_jax.cost import plan

  row = measured(cell.model, cell.stage, target.chip.tile)
  return plan.formula(config, target, row)


@functools.cache
def measured(model: str, stage: str, tile: tuple) -> workload.Workload:
  """The rows of a stage, which are the same on every machine."""
  machine = next(iter(MACHINES))
  return workload.measure(Cell(model, stage, machine).config, tile)


def main():
  """Compiles what is asked."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--compile", type=int, default=32, help="cells at most")
  parser.add_argument("--platform", default="tpu", choices=["tpu", "cuda"])
  parser.add_argument("--choices", action="store_true", help="of remat, mesh")
  parser.add_argument("--largest", action="store_true", help="1024 chips")
  asked = parser.parse_args()
  prepare(chips.target("v5p:4x4x4"))
  wanted = cells()
  if asked.choices:
    wanted = (cell for machine in MACHINES for cell in choices(machine))
  if asked.largest:
    wanted = largest()
  compile_cells(wanted, asked.compile, asked.platform)


if __name__ == "__main__":
  main()
