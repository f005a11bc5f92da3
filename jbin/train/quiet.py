"""Orbax prints, with whole traces, errors that it raises as well.

Who saves and restores tells what was raised in one line; `hush` keeps the rest
from the terminal. It drops nothing that is not of Orbax.
"""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Any

from absl import logging as absl_logging


@functools.cache
def hush() -> None:
  """Keeps Orbax's log, and what its abandoned readers say, from stderr."""
  absl_logging.get_absl_logger().addFilter(_is_of_others)
  logging.getLogger("asyncio").addFilter(_is_of_others)
  before = sys.unraisablehook

  def unraisable(args: Any) -> None:
    if not _is_late_reader(args):
      before(args)

  sys.unraisablehook = unraisable


def _is_of_others(record: logging.LogRecord) -> bool:
  """Of a reader whose error nobody asked for, asyncio is the one to log."""
  return not (_in_orbax(record.pathname) or "orbax" in record.getMessage())


def _is_late_reader(args: Any) -> bool:
  """When one array cannot be read, readers of others end with errors too."""
  code = getattr(args.object, "cr_code", None)
  if code is not None:
    return _in_orbax(code.co_filename)
  late = args.object is None and isinstance(args.exc_value, RuntimeError)
  return late and str(args.exc_value) == "Event loop is closed"


def _in_orbax(path: str) -> bool:
  return "orbax" in Path(path).parts
