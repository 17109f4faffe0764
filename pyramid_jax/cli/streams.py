"""Standard output and error of a process that outlives who reads them."""

import contextlib
import errno
import io
import os
import sys

from absl import logging as absl_logging

# How it shows that a pipe, a socket or a terminal has no reader any more.
GONE = {errno.EPIPE, errno.ECONNRESET, errno.EIO}


class Lasting(io.FileIO):
  """A descriptor that becomes /dev/null when its reader has gone."""

  def write(self, data):
    """As `io.FileIO`; what nobody reads is dropped."""
    try:
      return super().write(data)
    except OSError as error:
      if error.errno not in GONE:
        raise
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, self.fileno())
    os.close(nothing)
    return super().write(data)


def outlive_readers() -> None:
  """Lets all that prints go on when nobody reads it any more.

  A host that shuts down ends its ssh connections as it tells processes to end:
  what they do then, such as saving, must not fail because of a line to print.
  """
  for name in ("stdout", "stderr"):
    before = getattr(sys, name)
    if before is None:  # the process was started without it
      continue
    with contextlib.suppress(OSError):
      before.flush()
    file = Lasting(before.fileno(), "w", closefd=False)
    after = io.TextIOWrapper(
      io.BufferedWriter(file),
      before.encoding,
      before.errors,
      line_buffering=before.line_buffering,
      write_through=before.write_through,
    )
    setattr(sys, name, after)
  if sys.stderr is not None:
    absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)
