"""From text files to documents of sentences."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from jbin import errors
from jbin.data import _random

T = TypeVar("T")

_SPLIT_SEED = 0

# After what ends a sentence, where a space follows.
_END = re.compile(r"(?<=[.!?])\s+")
# " = Title = " and " = = Section = = ", as WikiText has them.
_HEADING = re.compile(r"\s*=\s.*\s=\s*")
# The lines by which Wiki-40B tells its parts apart, and what it puts in place
# of line feeds.
_MARKER = re.compile(r"_START_[A-Z]+_")
_LINE_FEED = "_NEWLINE_"


def paths(files: Sequence[str], option: str) -> tuple[pathlib.Path, ...]:
  """The files that an argument names; one name stands for itself.

  Raises:
    errors.UserError: if one is not there.
  """
  names = [files] if isinstance(files, str) else files
  found = tuple(pathlib.Path(name).expanduser() for name in names)
  for path in found:
    if not path.is_file():
      what = "is a folder" if path.is_dir() else "is not there"
      raise errors.UserError(
        f"{option}: {path} {what}; give the path of a text file, or several"
      )
  return found


def read(path: pathlib.Path) -> str:
  """The text of a file as it is, but for a byte order mark.

  Raises:
    errors.UserError: if it is empty or no UTF-8.
  """
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"text file {path} is not UTF-8 ({error}); convert it, as with iconv"
    ) from error
  if not text.strip():
    raise errors.UserError(
      f"text file {path} is empty; leave it out or fill it"
    )
  return text


def lines(files: Sequence[pathlib.Path]) -> Iterator[str]:
  """All lines of all files.

  Raises:
    errors.UserError: as `read`.
  """
  for path in files:
    yield from read(path).split("\n")


def of_text(text: str) -> Iterator[list[str]]:
  """Documents, as lists of sentences, of a text with several.

  Blank lines and headings of WikiText separate them; headings are left out. A
  line ends a sentence, and so do ".", "!" and "?" before a space.
  """
  block: list[str] = []
  for line in [*text.split("\n"), ""]:
    if line.strip() and not _HEADING.fullmatch(line):
      block.append(line)
    elif block:
      yield _sentences(block)
      block = []


def of_record(text: str) -> list[str]:
  """The sentences of a text that is one document, as `plain` has it.

  Blank lines are left out.
  """
  return _sentences(plain(text).split("\n"))


def plain(text: str) -> str:
  """A text without the markers of Wiki-40B; any other as it is.

  What stands for a line feed becomes one, and lines that tell an article's
  parts apart are left out.
  """
  if not _MARKER.search(text):
    return text
  block = text.replace(_LINE_FEED, "\n").strip("\n").split("\n")
  return "\n".join(x for x in block if not _MARKER.fullmatch(x.strip()))


def hold_out(documents: Sequence[T], share: float) -> tuple[list[T], list[T]]:
  """What is left, and what is held out: a share, at least one.

  Held out are those of the least hashes of their index.

  Args:
    documents: in an order that is always the same.
    share: above 0 and below 1.
  """
  hashes = _random.hash64(_SPLIT_SEED, np.arange(len(documents)))
  held = max(1, round(share * len(documents)))
  chosen = set(np.argsort(hashes)[:held].tolist())
  return (
    [each for i, each in enumerate(documents) if i not in chosen],
    [documents[i] for i in sorted(chosen)],
  )


def check_share(share: float) -> None:
  """Raises for a share that holds out nothing, or all.

  Raises:
    errors.UserError: if so.
  """
  if not 0 < share < 1:
    raise errors.UserError(
      f"eval_share is {share}; it must be above 0 and below 1, or set"
      " eval_files"
    )


def _sentences(block: Sequence[str]) -> list[str]:
  found = (part for line in block for part in _END.split(line.strip()))
  return [sentence for sentence in found if sentence]
