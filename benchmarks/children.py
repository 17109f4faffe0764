"""Processes of benchmarks: a case each, none of which outlives its parent."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
LEAVING = 10  # seconds that a process gets to end before it is killed


def run(
  command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
  """Runs a command to its end; (exit code, what it printed).

  It ends with this process, whatever ends that but SIGKILL: one that went on
  would keep its device from all that is measured next.
  """
  told, child = [], None

  def end(number, _):
    told.append(number)
    if child is not None:  # else it is being started, and must be known first
      sys.exit(128 + number)

  before = {number: signal.signal(number, end) for number in ENDS}
  try:
    child = subprocess.Popen(
      command, env=environment, stdout=subprocess.PIPE, text=True
    )
    if told:
      sys.exit(128 + told[0])
    printed, _ = child.communicate()
  finally:
    for number, handler in before.items():
      signal.signal(number, signal.SIG_IGN if told else handler)
    if child is not None and child.poll() is None:
      child.terminate()
      with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(LEAVING)
      child.kill()
      child.wait()
  return child.returncode, printed
