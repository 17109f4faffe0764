"""The curriculum's recipes say what was planned for them, and are run so."""

import dataclasses
import pathlib
import re
import runpy

import pytest

from pyramid_jax.config import Config, MeshConfig, from_dict
from pyramid_jax.cost import estimate

ROOT = pathlib.Path(__file__).parents[2]
SCALE = runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))
Cell, MACHINES = SCALE["Cell"], SCALE["MACHINES"]
# stages that each file of a transformer has: (which of its runs, stage)
FILES = {
  "image": [("", "image")],
  "384p": [("2s", "384p_2s"), ("5s", "384p_5s")],
  "768p": [("", "768p")],
}
RECIPES = [
  pytest.param(f"{file}_{part}", model, which, stage, id=f"{model}_{stage}")
  for model, file in (("mmdit", "mmdit_2b"), ("miniflux", "miniflux"))
  for part, stages in FILES.items()
  for which, stage in stages
]


def docstring(name):
  """Of a config file; a line that is continued is one with the next."""
  return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["__doc__"]


def mesh(flags, machine, stage):
  """What the flags make of a machine's devices."""
  axes = dict(re.findall(r"--config\.mesh\.(\w+)=(-?\d+)", flags))
  found = dataclasses.replace(
    MeshConfig(), **{axis: int(n) for axis, n in axes.items()}
  )
  cell = Cell("mmdit", stage, machine)
  config = dataclasses.replace(cell.config, mesh=found)
  return estimate.mesh_of(config, cell.target)


def planned_mesh(machine, stage):
  cell = Cell("mmdit", stage, machine)
  return estimate.mesh_of(cell.config, cell.target)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_curriculum_names_the_mesh_that_was_planned(machine):
  lines = re.findall(
    rf"^ +{machine}  +(--config\.mesh.*)$", docstring("curriculum"), re.M
  )
  (flags,) = lines
  for stage in SCALE["STAGES"]:
    assert mesh(flags, machine, stage) == planned_mesh(machine, stage)


@pytest.mark.parametrize("file, model, which, stage", RECIPES)
def test_a_recipes_command_has_the_mesh_of_its_hardware(
  file, model, which, stage
):
  text = docstring(file)
  (machine,) = re.findall(r"^Hardware: (\S+ \S+) of", text, re.M)
  path = f"configs/{file}.py" + (f":{which}" if which else "")
  (flags,) = re.findall(rf"pyramid-train --config={path} (.*)", text)
  assert mesh(flags, machine, stage) == planned_mesh(machine, stage)


@pytest.mark.parametrize("file, model, which, stage", RECIPES)
def test_a_recipe_says_the_hours_that_were_planned(file, model, which, stage):
  hours = []
  for machine in MACHINES:
    cell = SCALE["planned"](Cell(model, stage, machine))
    low, high = cell["hours"], cell["hours_serial"]
    hours.append(f"{machine} {low:.1f} to {high:.1f}")
  at = f" at {which[0]} s" if which else ""
  wanted = f"Hours planned{at}: {', '.join(hours)}."
  assert wanted in " ".join(docstring(file).split())


@pytest.mark.parametrize("file, model, which, stage", RECIPES)
def test_a_recipe_says_the_samples_of_a_step(file, model, which, stage):
  cell = Cell(model, stage, next(iter(MACHINES)))
  row = SCALE["measured"](model, stage, cell.target.chip.tile)
  (told,) = re.findall(
    r"([\d,]+)(?: or ([\d,]+))? samples with the prompts", docstring(file)
  )
  assert f"{128 * row.samples:,.0f}" == told[which == "5s"]


@pytest.mark.parametrize("file, model, which, stage", RECIPES)
def test_one_bad_batch_does_not_end_a_stage(file, model, which, stage):
  made = runpy.run_path(str(ROOT / "configs" / f"{file}.py"))["get_config"]
  train = from_dict(Config, made(which) if which else made()).train
  (limit,) = re.findall(r"^Up to (\d+) steps", docstring("curriculum"), re.M)
  assert train.max_nonfinite == int(limit) > 0
  assert bool(train.init) == (stage != "image")


@pytest.mark.parametrize("model", ["mmdit", "miniflux"])
def test_no_stage_repeats_the_draws_of_another(model):
  """Those of one seed, source and clip are the same."""
  make = runpy.run_path(str(ROOT / "configs" / "curriculum.py"))["get_config"]
  stages = ("image", "384p_2s", "384p_5s", "768p")
  seeds = [make(f"{model}_{stage}").seed for stage in stages]
  assert len(set(seeds)) == len(seeds)
