"""Compiled programs that tell of every call of the transformer."""

import contextlib
from collections.abc import Callable, Iterator

import jax


class Steps:
  """Whom a program tells that a step is done.

  JAX keeps programs, and all that they refer to, for ever: this object, which
  refers to nobody unless units are generated.
  """

  def __init__(self):
    self._listener: Callable[[], None] | None = None

  def done(self):
    """Tells whoever listens."""
    if self._listener:
      self._listener()

  @contextlib.contextmanager
  def told(self, listener: Callable[[], None] | None) -> Iterator[None]:
    """Tells one listener, or nobody, of what runs within the block."""
    self._listener = listener
    try:
      yield
    finally:
      jax.effects_barrier()  # news of the last steps may be on their way
      self._listener = None
