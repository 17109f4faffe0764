"""How a run is told to stop: by SIGTERM, or by Ctrl-C."""

import os
import signal

import jax
import numpy as np
from jax.experimental import multihost_utils

AGAIN = b"interrupted; saving after this step (Ctrl-C again: without saving)\n"


class TrainingStopped(Exception):
  """The run was asked to stop and has saved its state.

  Attributes:
    interrupted: whether it was by SIGINT.
  """

  def __init__(self, message: str, interrupted: bool = False):
    super().__init__(message)
    self.interrupted = interrupted


class StopSignal:
  """Remembers a SIGTERM; all processes of a run then stop at the same step.

  In a single process the first SIGINT as well: as an exception it could be lost
  in a callback of XLA, and so would be what was learned since the last save.
  The second is for the handler of before. Where SIGINT was ignored it stays so.

  With several processes JAX's own handler, which tells the others, stays. They
  agree to stop at the step after the last one that any of them has reached, so
  each says first that it is at `start`; a signal before that is for step 1,
  which a run that goes on never reaches, and is remembered here.

  Attributes:
    interrupted: whether a SIGINT came.
  """

  def __init__(self, start: int):
    self.caught, self.interrupted, self.old = False, False, {}
    if jax.process_count() > 1:
      reached = multihost_utils.reached_preemption_sync_point
      reached(start)
      multihost_utils.sync_global_devices("the step to start from")
      early = start > 0 and reached(1)
      reached(start)
      told = multihost_utils.process_allgather(np.int32(early))
      self.caught = bool(told.any())
      return
    try:
      self.old[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._catch)
    except ValueError:  # not the main thread, as in a notebook's worker
      return
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
      self.old[signal.SIGINT] = signal.signal(signal.SIGINT, self._catch)

  def _catch(self, number: int, frame):
    del frame
    self.caught = True
    if number == signal.SIGINT:
      self.interrupted = True
      signal.signal(signal.SIGINT, self.old[signal.SIGINT])
      os.write(2, AGAIN)  # a signal may come in the middle of a print

  def requested(self, step: int) -> bool:
    """Whether the run is to stop after this step."""
    if jax.process_count() > 1:
      asked = multihost_utils.reached_preemption_sync_point(step)
      return asked or self.caught
    return self.caught

  def restore(self) -> None:
    """Puts the handlers of before back."""
    for number, handler in self.old.items():
      signal.signal(number, handler)
