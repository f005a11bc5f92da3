"""The folder of golden vectors: every file found is read, or a test fails."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(os.environ.get("JBIN_SHARED", ROOT.parent / "shared"))


def files(slug: str, pattern: str) -> list[Any]:
  """Parameters for one test for each file of a system.

  Where the folder is absent: one parameter that is skipped, with the reason.
  """
  found = sorted((SHARED / "golden" / slug).glob(pattern))
  if found:
    return list(found)
  reason = f"no golden vectors for {slug}; set JBIN_SHARED to their folder"
  return [
    pytest.param(pathlib.Path(slug), marks=pytest.mark.skip(reason=reason))
  ]


def check_for(
  file: pathlib.Path, checks: Mapping[str, Callable[..., None]]
) -> Callable[..., None]:
  """The check whose name is the longest that the file's name begins with."""
  fitting = [name for name in checks if file.stem.startswith(name)]
  assert fitting, f"{file.name}: no check reads it; add one"
  return checks[max(fitting, key=len)]
