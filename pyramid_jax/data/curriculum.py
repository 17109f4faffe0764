"""Which samples stand in row n of a run whose mixture changes on the way."""

import bisect
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from pyramid_jax.config import ConfigError, FlowConfig, LatentDataConfig
from pyramid_jax.data import order
from pyramid_jax.data.draws import Pick
from pyramid_jax.data.latents import LatentStore
from pyramid_jax.data.packing import VERSION, Planner

PERIOD = 2**34  # what a seed is hashed for


class Curriculum:
  """Finds row n of a run: each of `config.periods` is a plan of its own.

  Its rows count from its first step, and its seed is its own part of the run's,
  so a row is a pure function of the settings and n. Without periods the whole
  run is one plan.

  Attributes:
    planners: of each period.
    starts: the row with which each begins.
    settings: what the rows of a step depend on, by name; two runs with the
      same have the same rows.

  Raises:
    ConfigError: weights of other sources, or what a `Planner` refuses.
  """

  def __init__(
    self,
    stores: Sequence[LatentStore],
    config: LatentDataConfig,
    flow: FlowConfig,
    patch: int,
    seed: int,
  ):
    self.config = config
    self.settings = _settings(stores, config, flow, patch, seed)
    self.planners = [
      Planner(stores, part, flow, patch, part_seed)
      for part, part_seed in parts_of(config, seed)
    ]
    self.starts = [0]
    for period in config.periods[:-1]:
      self.starts.append(self.starts[-1] + period.steps * config.rows)

  def row(self, n: int) -> list[Pick]:
    """The samples of row n."""
    planner, start = self.at(n)
    return planner.row(n - start)

  def at(self, n: int) -> tuple[Planner, int]:
    """The plan of the period that row n belongs to, and the period's start."""
    i = bisect.bisect_right(self.starts, n) - 1
    return self.planners[i], self.starts[i]


def parts_of(
  config: LatentDataConfig, seed: int
) -> list[tuple[LatentDataConfig, int]]:
  """Settings and seed of each period's plan."""
  if not config.periods:
    return [(config, seed)]
  parts = []
  for i, period in enumerate(config.periods):
    weights = period.weights or [s.weight for s in config.sources]
    if len(weights) != len(config.sources):
      raise ConfigError(
        f"config.latents.periods[{i}].weights is {period.weights}; give one "
        f"for each of the {len(config.sources)} sources, or none."
      )
    sources = tuple(
      dataclasses.replace(source, weight=weight)
      for source, weight in zip(config.sources, weights, strict=True)
    )
    part = dataclasses.replace(
      config, sources=sources, max_units=period.max_units
    )
    parts.append((part, int(order.integers(seed, PERIOD, i))))
  return parts


def _settings(
  stores: Sequence[LatentStore],
  config: LatentDataConfig,
  flow: FlowConfig,
  patch: int,
  seed: int,
) -> dict[str, Any]:
  """What the rows of a step depend on, by name, as JSON gives it back.

  A store is what was stored, wherever it lies.
  """
  data = dataclasses.asdict(config)
  for name in ("sources", "workers"):
    del data[name]
  sources = {
    f"sources[{i}]": {
      "store": store.fingerprint[:16],
      "weight": source.weight,
    }
    for i, (store, source) in enumerate(
      zip(stores, config.sources, strict=True)
    )
  }
  values = {
    "version of the plan": VERSION,
    **{f"config.latents.{k}": v for k, v in (sources | data).items()},
    "config.flow.stages": flow.stages,
    "config.flow.frames_per_unit": flow.frames_per_unit,
    "config.flow.history": flow.history,
    "config.model.patch": patch,
    "config.seed": seed,
  }
  return json.loads(json.dumps(values))
