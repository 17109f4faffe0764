"""Compiled programs, kept between runs of a command."""

import dataclasses
import os
import pathlib

from absl import flags

FOLDER = os.path.join("~", ".cache", "pyramid_jax", "compiled")
flags.DEFINE_string(
  "compilation_cache",
  FOLDER,
  "Folder in which compiled programs are kept; empty: none. What "
  "JAX_COMPILATION_CACHE_DIR names comes before the default, which is "
  "WORKDIR/compiled where several processes train.",
)


@dataclasses.dataclass
class Programs:
  """How many programs were compiled, and how many came from the cache."""

  folder: str
  compiled: int = 0
  found: int = 0

  def __str__(self) -> str:
    if not self.folder:
      return "compiled programs are not kept (--compilation_cache)"
    return (
      f"{self.compiled} programs compiled, {self.found} found in {self.folder}"
    )


def use_cache(shared: str = "") -> Programs:
  """Turns the cache on and counts, from now on.

  Several processes may share the folder; only the first of them writes, so
  where they do not, the others compile anew at every start.

  Args:
    shared: a folder that all processes see. If there are several and no other
      folder is named, programs are kept under it.
  """
  import jax

  path = flags.FLAGS.compilation_cache
  if not flags.FLAGS["compilation_cache"].present:
    if shared and jax.distributed.is_initialized():
      path = os.path.join(shared, "compiled")
    path = jax.config.jax_compilation_cache_dir or path
  programs = Programs(str(pathlib.Path(path).expanduser()) if path else "")
  if not path:
    return programs
  jax.config.update("jax_compilation_cache_dir", programs.folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

  def count(event: str, **_):
    programs.found += event == "/jax/compilation_cache/cache_hits"
    programs.compiled += event == "/jax/compilation_cache/cache_misses"

  jax.monitoring.register_event_listener(count)
  return programs
