"""What every command shares: flags in, one clear line out if they are wrong."""

import errno
import logging
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable

from absl import app, flags
from absl import logging as absl_logging

from pyramid_jax.config import UserError

STARTED = time.monotonic()  # about when the command was called
HELP = {"--help", "-help", "-h", "-?", "--helpshort"}
# Trouble with a file for which the machine is to blame, not the program.
MACHINE = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EPERM,
           errno.EROFS}  # fmt: skip


def require(*names: str):
  """Refuses to go on without these flags.

  Raises:
    UserError: names the missing ones and what each of them is.
  """
  missing = [name for name in names if not flags.FLAGS[name].value]
  if missing:
    what = [
      f"--{name} ({_about(name).split('. ')[0].rstrip('.')})"
      for name in missing
    ]
    verb = "is" if len(missing) == 1 else "are"
    raise UserError(f"{', '.join(what)} {verb} missing; see --help.")


def run(
  main: Callable[..., int | None],
  check: Callable[[list[str]], None] = lambda argv: None,
  *,
  arguments: bool = False,
  continues: Callable[[], bool] = lambda: False,
):
  """Runs a command; what a user can mend is one line, mostly exit code 2.

  SIGTERM ends it in order, so that no unfinished file stays; exit code 143.

  Args:
    main: does the work; the flags are parsed. It may return an exit code.
    check: refuses arguments that are better not parsed.
    arguments: whether `main` takes a list of what is no flag.
    continues: whether the command, with the flags given, goes on with what it
      has done before.
  """
  if HELP & set(sys.argv[1:]):
    print(_help(main.__module__))
    return

  def parse(argv):
    try:
      check(flags.FLAGS.read_flags_from_files(argv))
      return flags.FLAGS(argv)
    except IndexError as error:
      fail(f"{' '.join(a for a in argv if '[' in a)}: {error}")
    except (flags.Error, ValueError, TypeError, KeyError) as error:
      fail(error)

  def guarded(argv):
    if len(argv) > 1 and not arguments:
      fail(f"{argv[1]!r} is not understood; flags start with --.")
    _quiet()
    signal.signal(signal.SIGTERM, _end_in_order)
    try:
      return main(argv[1:]) if arguments else main()
    except UserError as error:
      fail(error, error.exit_code)
    except SystemExit as ended:  # by SIGTERM
      if _several():
        sys.modules["pyramid_jax.cli.processes"].leave_together()
        _end_now(ended.code)
      raise
    except KeyboardInterrupt:
      fail("interrupted", 128 + signal.SIGINT)
    except Exception as error:
      if reason := _machine(error, continues):
        fail(reason)
      if _several():
        traceback.print_exc()
        _end_now(1)
      raise

  app.run(guarded, flags_parser=parse)


def _quiet():
  """Our messages as plain lines; what libraries log, they raise as well."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  absl_logging.get_absl_handler().setFormatter(None)
  logging.getLogger("pyramid_jax").setLevel(logging.INFO)

  def show(unraisable):
    # after a failed save tensorstore reports to a loop that orbax has closed
    if str(unraisable.exc_value) != "Event loop is closed":
      sys.__unraisablehook__(unraisable)

  sys.unraisablehook = show


def _machine(error: BaseException, continues: Callable[[], bool]) -> str:
  """What a person can mend about an error that is not ours, or nothing."""
  # here, so that mistakes in flags are told before JAX is imported
  from pyramid_jax.checkpoint import is_full_disk

  if is_full_disk(error):
    file = getattr(error, "filename", None)
    return (
      f"the disk is full{f' ({file})' if file else ''}. Free some space and "
      f"run the same command again{'; it continues' if continues() else ''}."
    )
  if isinstance(error, OSError) and error.errno in MACHINE:
    return f"{error.filename}: {error.strerror}."
  return ""


def fail(error: BaseException | str, code: int = 2):
  """Ends with one line on stderr.

  Raises:
    SystemExit: unless other processes wait, which must not be waited for.
  """
  if isinstance(error, KeyError) and error.args:
    error = error.args[0]  # its str is a repr
  text = str(error).removeprefix("ERROR:: ")  # as absl begins some
  lines = (line.strip() for line in text.splitlines())
  text = " ".join(line for line in lines if line)
  print(f"{sys.argv[0].rsplit('/', 1)[-1]}: error: {text}", file=sys.stderr)
  if _several():
    _end_now(code)
  raise SystemExit(code)


def _end_in_order(number: int, frame: object):
  """What SIGTERM does; another one does not disturb what it sets off."""
  signal.signal(number, signal.SIG_IGN)
  sys.exit(128 + number)


def _several() -> bool:
  """Whether this process has met others."""
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized()


def _end_now(code: int):
  """Ends without waiting for the other processes, which may be dead.

  Those that live notice it, and end too.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  # its flags are of the commands that run in several processes alone
  if processes := sys.modules.get("pyramid_jax.cli.processes"):
    processes.finish_logs()
  os._exit(code)


def _help(module: str) -> str:
  """The command's own description and flags."""
  lines = [sys.modules[module].__doc__.strip(), ""]
  for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[module]):
    given = flag.default not in (None, "", [])
    lines += textwrap.wrap(
      _about(flag.name) + (f" Default: {flag.default}." if given else ""),
      80,
      initial_indent=f"  --{flag.name:<16} ",
      subsequent_indent=" " * 21,
    )
  return "\n".join(lines)


def _about(name: str) -> str:
  """The help of a flag without what absl adds to it."""
  return flags.FLAGS[name].help.split(";\n")[0]
