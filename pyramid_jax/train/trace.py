"""A trace of chosen steps, to be looked at with xprof or Perfetto."""

import pathlib
from typing import Any

import jax

from pyramid_jax.config import ConfigError
from pyramid_jax.train.metrics import say


class Trace:
  """Records the steps `first` to `last` of a run, on its first process.

  The files lie under `folder`; `xprof --logdir=FOLDER` shows them.

  Args:
    steps: (first, last), counted from 1 as in the reports; empty: none.

  Raises:
    ConfigError: no such range.
  """

  def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]):
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
      raise ConfigError(
        f"config.train.profile is {steps}; it must be (first, last), two steps "
        "from 1 on, or empty."
      )
    self.folder, self.running = folder, False
    mine = steps if jax.process_index() == 0 else ()
    self.first, self.last = mine or (0, 0)

  def before(self, step: int, state: Any) -> None:
    """Begins to record if it is time, once the steps so far are done."""
    if step == self.first:
      jax.block_until_ready(state)
      jax.profiler.start_trace(self.folder)
      self.running = True

  def after(self, step: int, result: Any) -> None:
    """Ends with the last step, once its result is there."""
    if self.running and step == self.last:
      jax.block_until_ready(result)
      self.close()
      say(f"trace of steps {self.first} to {self.last}: {self.folder}")

  def close(self) -> None:
    """Writes what is recorded so far."""
    if self.running:
      jax.profiler.stop_trace()
      self.running = False
