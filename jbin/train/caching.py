"""Compiled programs that are kept for the next start."""

from __future__ import annotations

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from jbin import errors


def keep(folder: str) -> str:
  """Lets JAX keep each program that it compiles from now on in a folder.

  It holds for the whole process, and for small programs too. A program is found
  again by the same JAX on a machine of the same kind; XLA on a CPU warns if
  the machine that compiled it has other features. One process of a run writes.
  An entry that was cut off when a process was killed is not used: JAX warns
  and compiles; delete the folder to be rid of it.

  Several processes on CPUs keep and load nothing, whatever JAX was told, also
  by JAX_COMPILATION_CACHE_DIR: a loaded program may take its collectives in
  another order than its twin in another process, which gloo answers by an
  abort.

  Args:
    folder: of the programs; runs may share it. "": nothing is changed.

  Returns:
    What to say of it: why nothing is kept; else "".

  Raises:
    errors.UserError: if it cannot be made.
  """
  if jax.process_count() > 1 and jax.default_backend() == "cpu":
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    return (
      f"compile_cache={folder} is not used: several processes on CPUs cannot"
      " load compiled programs"
      if folder
      else ""
    )
  if not folder:
    return ""
  path = Path(folder).expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.UserError(
      f"config key 'compile_cache' is {folder!r}, which cannot be a folder:"
      f" {error.strerror}; set another one, or '' for none"
    ) from error
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  jax.config.update("jax_compilation_cache_dir", str(path.absolute()))
  compilation_cache.reset_cache()  # where JAX has taken another one already
  return ""
