"""The training loop of every model: restore, step, report, save, stop well."""

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from pyramid_jax import sharding
from pyramid_jax.checkpoint import (
  CheckpointError,
  Checkpoints,
  load_trained,
  placed,
)
from pyramid_jax.config import Config, UserError
from pyramid_jax.models.pure import Params, Pure
from pyramid_jax.train import resume, starts
from pyramid_jax.train.metrics import Reporter, say
from pyramid_jax.train.program import Program
from pyramid_jax.train.spikes import Spikes
from pyramid_jax.train.state import TrainState
from pyramid_jax.train.stopping import StopSignal, TrainingStopped
from pyramid_jax.train.trace import Trace

log = logging.getLogger(__name__)


class PeerLostError(UserError):
  """The devices of another process do not answer any more."""

  exit_code = 3


class OutOfMemoryError(UserError):
  """The devices have not the memory for a step."""


class NonFiniteError(UserError):
  """The loss was not finite more often than the config allows."""


@dataclasses.dataclass(frozen=True)
class Task:
  """What the loop needs to know of a kind of training.

  Attributes:
    program: network, optimizer and step.
    batches: from a step on, this process's rows of every batch, as numpy.
    rows: step -> numbers of the rows in that step's batch, over all processes,
      counted over the run.
    samples: step -> names of the samples in that step's batch.
    unit: what the speed is counted in.
    items: how many units a batch holds.
    finish: after the last step, (metrics to report, meta to save); None: there
      is nothing to do.
    meta: saved in every checkpoint, beside the config; "plan" says by name what
      the rows depend on, the same on all processes.
    frozen: the parameters of the program's frozen networks.
    picture: uint8 [H, W, 3], what the weights do by now; the same on all
      processes, each of which has to ask.
    like: step -> what its batch has in common with the batches whose losses
      its own is compared with.
  """

  program: Program
  batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]]
  rows: Callable[[int], range]
  samples: Callable[[int], Sequence[str]]
  unit: str
  items: Callable[[Mapping[str, np.ndarray]], float]
  finish: Callable[[TrainState], tuple[dict[str, float], dict[str, Any]]] | None
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  frozen: Mapping[str, Params] = dataclasses.field(default_factory=dict)
  picture: Callable[[TrainState], np.ndarray] | None = None
  like: Callable[[int], Hashable] = lambda step: None


def run(
  config: Config,
  workdir: pathlib.Path,
  mesh: jax.sharding.Mesh,
  task: Task,
  started: float | None = None,
  utilisation: Callable[[float], float] | None = None,
  max_starts: int = 0,
) -> TrainState:
  """Trains until `config.train.steps`, from the newest checkpoint if any.

  SIGTERM, to one process or to all, saves and ends the run at the same step of
  all; the same call continues it with the same losses, also on another mesh
  and with another number of processes. In a single process so does SIGINT.

  Args:
    started: `time.monotonic()` at which the time to the first step begins.
    utilisation: MFU, to be reported, from the steps a second.
    max_starts: calls that may begin at the same checkpoint; 0 is any number.

  Raises:
    NonFiniteError: names the step and the rows; nothing bad was saved.
    ConfigError: the processes see other data.
    CheckpointError: the workdir is of another run, or the disk is full.
    TrainingStopped: after such a signal.
    PeerLostError: another process died.
    OutOfMemoryError: a step needs more than the devices have.
    NoProgressError: more than `max_starts` calls brought no checkpoint.
  """
  train, end = config.train, config.train.steps
  started = time.monotonic() if started is None else started
  with jax.set_mesh(mesh), _peers(), contextlib.ExitStack() as ending:
    checkpoints = Checkpoints(workdir, train.keep, writing=True)
    ending.push(_closing(checkpoints))
    resume.require_same_everywhere(checkpoints, task.meta.get("plan"))
    if (checkpoints.latest or 0) < end:
      starts.count(workdir, checkpoints.latest, max_starts)
    stop = StopSignal(checkpoints.latest or 0)
    ending.callback(stop.restore)
    state = _first_state(config, mesh, task, checkpoints)
    start = int(state.step)
    if start >= end:
      log.info("%s is already trained to step %d.", workdir, start)
      return state
    spikes = Spikes(train.spike, task.rows, task.samples, task.like)
    report = Reporter(workdir, start, end, task.unit, spikes, utilisation)
    ending.callback(report.close)
    trace = Trace(workdir / "profile", train.profile)
    ending.callback(trace.close)
    taken = _steps(config, mesh, task, state, report, trace)
    for n, state in taken:
      if n == start:
        report.restart(first_step_seconds=time.monotonic() - started)
        say(f"first step after {time.monotonic() - started:.1f} s")
      last, stopping = n + 1 == end, stop.requested(n)
      due = stopping or _is_due(config, task, n + 1)
      _report(config, task, state, report, n + 1, due)
      if due and not last:
        checkpoints.save(n + 1, _items(state), config, **task.meta)
      if stopping and not last:
        checkpoints.wait()
        raise TrainingStopped(
          f"stopped and saved at step {n + 1}.", stop.interrupted
        )
    metrics, meta = task.finish(state) if task.finish else ({}, {})
    if metrics:
      report.write(end, metrics)
    checkpoints.save(end, _items(state), config, **task.meta, **meta)
  return state


def _steps(
  config: Config, mesh, task: Task, state: TrainState, report, trace
) -> Iterator[tuple[int, TrainState]]:
  """Takes the remaining steps: (number from 0 on, the state after it)."""
  step = task.program.jitted(mesh)
  key, start = jax.random.key(config.seed), int(state.step)
  batches = task.batches(start)
  for n in range(start, config.train.steps):
    trace.before(n + 1, state)
    local, rows = next(batches), len(task.rows(n))
    batch = sharding.place_batch(mesh, local, rows)
    state, metrics = step(state, batch, key, **task.frozen)
    # processes may share rows, but every row counts once
    held = len(next(iter(local.values())))
    report.add(metrics, task.items(local) * rows / held)
    trace.after(n + 1, metrics)
    yield n, state


def _is_due(config: Config, task: Task, step: int) -> bool:
  """Whether a step is to be saved.

  The one before the last is, where finishing may take long or fail: then one
  step is taken again, not all since the last save.
  """
  train = config.train
  if step % train.save_every == 0 or step == train.steps:
    return True
  return task.finish is not None and step + 1 == train.steps


def _report(config, task: Task, state: TrainState, report, step: int, due):
  """Writes metrics and a picture where it is time, always before a save.

  Raises:
    NonFiniteError: the state is not to be saved.
  """
  train = config.train
  if due or step == 1 or step % train.log_every == 0:
    # first, since this names all such steps, and the error the last of them
    report.report(step, skipped=int(state.skipped))
    _refuse_nonfinite(state, train.max_nonfinite, task)
  last = step == train.steps
  shown = train.pictures and (last or step % train.pictures == 0)
  if shown and task.picture:
    report.picture(step, task.picture(state))


def _first_state(config, mesh, task: Task, checkpoints: Checkpoints):
  """A fresh state, or the newest one saved."""
  program = task.program
  sharding.tell_whole(mesh, program.model.shapes, program.model.axes)
  say(
    parameter_overview.get_parameter_overview(
      program.model.shapes, include_stats=False
    )
  )
  if checkpoints.latest is None:
    given = _given(config, mesh, task)
    return program.create(mesh, config.seed, given)
  log.info("continuing from step %d.", checkpoints.latest)
  saved, meta = checkpoints.meta()
  resume.require_same(saved, config, checkpoints.folder)
  resume.require_same_encoders(
    meta.get("latents"), task.meta.get("latents"), checkpoints.folder
  )
  changed = []
  if "plan" in meta or config.kind == "dit":  # VAEs had none at first
    changed = resume.require_same_rows(
      meta.get("plan"), task.meta.get("plan"), checkpoints.folder,
      checkpoints.latest, config.train.new_data,
    )  # fmt: skip
  if changed:
    log.warning(
      "going on with other rows (were -> are): %s", "; ".join(changed)
    )
  target = placed(program.abstract(), program.shardings(mesh))
  items = checkpoints.restore(_items(target))
  return TrainState(**items.pop("progress"), **{"adversary": {}, **items})


def _closing(checkpoints: Checkpoints):
  """Finishes saving at the end, if all processes come to it together.

  After an error of one of them it would wait long for the others.
  """

  def close(kind, *_):
    together = kind in (None, TrainingStopped, NonFiniteError)
    if together or jax.process_count() == 1:
      checkpoints.close()

  return close


# How errors begin that a process makes by itself: a program that cannot be.
# That of a lost peer begins with INTERNAL, as many do.
OWN = ("INVALID_ARGUMENT", "UNIMPLEMENTED")
MEMORY = "RESOURCE_EXHAUSTED"


@contextlib.contextmanager
def _peers() -> Iterator[None]:
  """Tells what an error of the devices means: their memory, or a peer."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if str(error).startswith(MEMORY):
      raise OutOfMemoryError(
        f"too little memory on a device: {error}. Another start would end "
        "alike. Raise config.train.microbatches, lower config.latents.rows (or "
        "a phase's batch), set config.model.remat=layer, or split the weights "
        "over more devices (config.mesh.fsdp); pyramid-plan tells what fits."
      ) from error
    if jax.process_count() == 1 or str(error).startswith(OWN):
      raise
    reason = str(error).splitlines()[0]
    raise PeerLostError(
      f"another process does not answer any more ({reason}). Its own log says "
      "why. What was saved whole is kept; start the same command again on all "
      "processes, it continues."
    ) from error


def _given(config: Config, mesh, task: Task):
  """The weights that `config.train.init` names, float32, or None."""
  if not config.train.init:
    return None

  def make(saved: Config) -> Pure:
    group = "model" if config.kind == "dit" else "vae"
    # no weight depends on which tokens see which
    causal = config.model.causal
    model = dataclasses.replace(saved.model, causal=causal)
    saved = dataclasses.replace(saved, model=model)
    resume.require_same(saved, config, pathlib.Path(config.train.init), [group])
    return task.program.model

  try:
    given = load_trained(
      config.train.init, config.kind, make, mesh, require=_tell_unfinished
    )
  except CheckpointError as error:
    raise CheckpointError(
      f"--config.train.init, the weights to start from: {error}"
    ) from error
  log.info("starting from the weights of %s.", config.train.init)
  theirs, ours = given.meta.get("latents"), task.meta.get("latents")
  if lines := resume.other_encoders(theirs, ours):
    log.warning(
      "its latents were of other encoders (its -> now): %s", "; ".join(lines)
    )
  return jax.tree.map(lambda x: x.astype(np.float32), given.params)


def _tell_unfinished(meta: Mapping[str, Any]):
  """Warns of weights of a run that has not come to its end."""
  if "steps" in meta and meta["step"] < meta["steps"]:
    log.warning(
      "config.train.init is a run at step %s of %s.",
      f"{meta['step']:,}",
      f"{meta['steps']:,}",
    )


COUNTERS = ("step", "skipped", "last_skipped")


def _items(state: TrainState) -> dict[str, Any]:
  """The named trees of a checkpoint."""
  values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
  progress = {name: values.pop(name) for name in COUNTERS}
  if not state.adversary:
    del values["adversary"]
  return {**values, "progress": progress}


def _refuse_nonfinite(state: TrainState, limit: int, task: Task):
  """Raises if more steps were skipped than allowed."""
  skipped, last = int(state.skipped), int(state.last_skipped)
  if skipped <= limit:
    return
  rows = task.rows(last)
  raise NonFiniteError(
    f"step {last + 1}: the loss or its gradient is not finite in rows "
    f"{rows[0]} to {rows[-1]}; {skipped} such steps, max_nonfinite is {limit}. "
    "The weights before it are kept and the newest checkpoint is good. Look at "
    "those rows, lower optimizer.learning_rate, or raise train.max_nonfinite "
    "to skip them."
  )
