"""Several processes of one command: how they meet, and a log of each.

Each is started with the same arguments. Where TPU pods, SLURM or GKE tell a
process of the others, --distributed is enough; elsewhere each is told with
--coordinator, --processes and --process.
"""

import atexit
import contextlib
import logging
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from absl import flags
from absl import logging as absl_logging

from pyramid_jax.cli import streams
from pyramid_jax.config import UserError

F = flags.FLAGS
flags.DEFINE_bool(
  "distributed", False, "One of several processes that the machines know of."
)
flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, where nothing else tells it."
)
flags.DEFINE_integer(
  "processes", None, "How many, with --coordinator.", lower_bound=1
)
flags.DEFINE_integer(
  "process", None, "Which of them this is, from 0.", lower_bound=0
)
flags.DEFINE_string(
  "logs", None, "Folder; each process also keeps there what it prints."
)
NAMES = ("distributed", "coordinator", "processes", "process", "logs")

# Seconds without a sign of life after which a process counts as dead, and the
# others end; a device that is busy, or a long compilation, gives signs too.
HEARTBEAT = 30
# Seconds that the first one at the end waits for the last.
LEAVING = 60

# Seconds that a process which a signal ends waits for others that it ends, too;
# clusters mostly give 30.
TOLD = 15

# Seconds that a copy of what was printed gets to write the last of it.
WRITING = 5

log = logging.getLogger("pyramid_jax.processes")
_copies: list[subprocess.Popen] = []


class MeetingError(UserError):
  """What knows of the other processes did not tell; started anew, it may."""

  exit_code = 3


def start(preemption: bool = True) -> None:
  """Meets the other processes, if there are any; before JAX finds devices.

  What prints goes on from here when nobody reads it any more.

  Args:
    preemption: whether SIGTERM to one of them is told to all, see
      `jax.experimental.multihost_utils.reached_preemption_sync_point`; it then
      does not end a process by itself.

  Raises:
    UserError: flags that do not belong together, or nothing that tells of the
      others; a MeetingError if that does not answer.
  """
  streams.outlive_readers()
  told = [F.coordinator, F.processes, F.process]
  if any(x is not None for x in told) and None in told:
    raise UserError(
      "--coordinator, --processes and --process belong together; give all "
      "three, or --distributed alone where the machines know of each other."
    )
  if F.coordinator and not F.process < F.processes:
    raise UserError(
      f"--process={F.process} is not one of --processes={F.processes}; the "
      "first is 0."
    )
  import jax

  if F.coordinator or F.distributed:
    jax.config.update("jax_enable_preemption_service", preemption)
    _meet(jax)
  if F.logs:
    _keep_log(pathlib.Path(F.logs), jax.process_index())
  if jax.distributed.is_initialized():
    name = f"process {jax.process_index()} of {jax.process_count()}"
    absl_logging.get_absl_handler().setFormatter(
      logging.Formatter(f"%(asctime)s {name}: %(message)s", "%H:%M:%S")
    )
    log.info(
      "on %s with %d of %d devices",
      socket.gethostname(),
      jax.local_device_count(),
      jax.device_count(),
    )


def is_first() -> bool:
  """Whether this process reports for all; there may be but one."""
  jax = sys.modules.get("jax")
  return jax is None or jax.process_index() == 0


def wait_until(done: Callable[[], bool], seconds: float = 0.5) -> None:
  """Returns when `done`, which the work of other processes brings about.

  If one of them dies meanwhile, JAX ends this one; see `HEARTBEAT`.
  """
  while not done():
    time.sleep(seconds)


def leave_together() -> None:
  """Returns when all processes end, or after `TOLD` seconds.

  A signal mostly goes to all. JAX ends at once those whose first has gone, in
  the middle of a file or of compiling, before they heed it.
  """
  import jax

  def leave():
    with contextlib.suppress(RuntimeError):  # some do not end, or are dead
      jax.distributed.shutdown()

  thread = threading.Thread(target=leave, daemon=True)
  thread.start()
  thread.join(TOLD)


def _meet(jax) -> None:
  try:
    jax.distributed.initialize(
      F.coordinator,
      F.processes,
      F.process,
      cluster_detection_method="deactivate" if F.coordinator else None,
      heartbeat_timeout_seconds=HEARTBEAT,
      shutdown_timeout_seconds=LEAVING,
    )
  except (RuntimeError, ValueError) as error:
    hint = (
      "Is process 0 running, and its port open to this machine?"
      if F.coordinator
      else "Where no TPU pod, SLURM or GKE tells it, give --coordinator, "
      "--processes and --process."
    )
    # of JAX a ValueError is a lack of flags; who does not come in time, aborts
    kind = UserError if isinstance(error, ValueError) else MeetingError
    raise kind(
      f"the other processes were not found ({error}). {hint}"
    ) from error


def _keep_log(folder: pathlib.Path, process: int) -> None:
  """Writes all that is printed, also by libraries, to a file as well."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"process_{process:05d}.log"
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
    # what ends the process must not cut its log short: signals to its session,
    # those that a host that shuts down sends to all there is, and that nobody
    # reads what else tee writes; without SIGPIPE it goes on with the file
    copy = subprocess.Popen(
      ["sh", "-c", 'trap "" TERM HUP INT PIPE; exec tee -a "$0"', str(path)],
      stdin=subprocess.PIPE,
      stdout=stream.fileno(),
      start_new_session=True,
    )
    os.dup2(copy.stdin.fileno(), stream.fileno())
    copy.stdin.close()
    _copies.append(copy)


def finish_logs() -> None:
  """Returns when the logs have all that was printed; prints nothing more.

  As the first process of a container this one takes all others with it.
  """
  if not _copies:
    return
  nothing = os.open(os.devnull, os.O_WRONLY)
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
    os.dup2(nothing, stream.fileno())
  while _copies:
    with contextlib.suppress(subprocess.TimeoutExpired):
      _copies.pop().wait(timeout=WRITING)


# here, so that it runs after what JAX registers
atexit.register(finish_logs)
