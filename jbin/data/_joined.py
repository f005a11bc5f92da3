"""Texts as one long line of tokens: in memory, or in a file beside it."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from jbin import errors
from jbin.data import _tokens

# The kinds of special tokens that a line has.
NEEDED = ("sep",)

# Texts that are encoded at a time.
_AT_ONCE = 256
# How much of a file is decoded to see how long its tokens are.
_STRETCHES, _STRETCH = 16, 4096


def encoded(
  texts: Iterable[str], tokenizer: _tokens.Tokenizer
) -> Iterator[tuple[list[int], int]]:
  """Of each text its ids, the end-of-text token behind them, and its bytes."""
  end, texts = tokenizer.special["sep"], iter(texts)
  while some := list(itertools.islice(texts, _AT_ONCE)):
    for text, ids in zip(some, tokenizer.encode(some), strict=True):
      yield [*ids, end], len(text.encode())


@dataclasses.dataclass(frozen=True)
class Saved:
  """Tokens of a file, mapped into memory; a pickle carries its path."""

  path: pathlib.Path
  start: int
  stop: int

  @functools.cached_property
  def _whole(self) -> np.memmap:
    return np.load(self.path, mmap_mode="r")

  @functools.cached_property
  def array(self) -> np.ndarray:
    """(stop - start,) integers."""
    return self._whole[self.start : self.stop]

  def check(self) -> None:
    """Raises if the file has become shorter.

    To read what is mapped and no longer there would end the process.

    Raises:
      errors.RunFailed: if so.
    """
    needed = self._whole.offset + self._whole.nbytes
    try:
      found = self.path.stat().st_size
    except FileNotFoundError:  # what is mapped stays until the process ends
      return
    if found < needed:
      raise errors.RunFailed(
        f"token file {self.path} has {found} bytes now, and had {needed}; put"
        " it back, and the same command goes on from its newest checkpoint"
      )

  def __reduce__(self) -> tuple[type, tuple[pathlib.Path, int, int]]:
    return Saved, (self.path, self.start, self.stop)


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
  """Tokens of several texts, one behind the other.

  Attributes:
    parts: arrays (n,), or such files.
    size: ids are below it.
    text_bytes: bytes of UTF-8 of all texts; of files, about as many.
  """

  parts: tuple[np.ndarray | Saved, ...]
  size: int
  text_bytes: float

  def __len__(self) -> int:
    return int(self._ends[-1]) if self.parts else 0

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    return np.cumsum([len(_array(part)) for part in self.parts])

  def take(self, start: int, stop: int) -> np.ndarray:
    """Tokens start to stop, (stop - start,) int32.

    Raises:
      errors.UserError: if one is none of the vocabulary's.
    """
    found = []
    first = int(np.searchsorted(self._ends, start, side="right"))
    for part, end in zip(
      self.parts[first:], self._ends[first:].tolist(), strict=True
    ):
      tokens = _array(part)
      offset = end - len(tokens)
      if isinstance(part, Saved):
        part.check()
      piece = tokens[max(start - offset, 0) : max(stop - offset, 0)]
      if isinstance(part, Saved) and len(piece):
        self._check(part, piece)
      found.append(np.asarray(piece, np.int32))
      if stop <= end:
        break
    return np.concatenate(found)

  def _check(self, part: Saved, piece: np.ndarray) -> None:
    low, high = int(piece.min()), int(piece.max())
    if low < 0 or high >= self.size:
      raise errors.UserError(
        f"token file {part.path} has the id {low if low < 0 else high}, and the"
        f" tokenizer has ids from 0 to {self.size - 1}; set tokenizer to the"
        " one that made the file"
      )


def _array(part: np.ndarray | Saved) -> np.ndarray:
  return part.array if isinstance(part, Saved) else part


def joined(
  texts: Iterable[str],
  files: Sequence[Saved],
  tokenizer: _tokens.Tokenizer,
) -> Line:
  """Texts, and behind them files of tokens.

  Args:
    texts: are encoded; kept in memory, 2 bytes a token, or 4.
    files: are not read, but for a few stretches.
    tokenizer: of both.

  Raises:
    errors.UserError: if another one made a file.
  """
  tokens, count = array.array(_tokens.typecode(tokenizer.size)), 0.0
  for ids, size in encoded(texts, tokenizer):
    tokens.extend(ids)
    count += size
  for each in files:
    _check_maker(each.path, tokenizer)
  inside = (np.asarray(tokens),) if len(tokens) else ()
  count += sum(_bytes_of(each, tokenizer) for each in files)
  return Line((*inside, *files), tokenizer.size, count)


def saved(path: pathlib.Path) -> Saved:
  """A file of tokens.

  Raises:
    errors.UserError: if it is none.
  """
  try:
    found = np.load(path, mmap_mode="r")
    if not isinstance(found, np.ndarray):
      raise ValueError("it is an archive of several arrays")
  except (ValueError, OSError, EOFError) as error:
    raise errors.UserError(
      f"token file {path} cannot be read: {error}; make it with"
      " data.write_tokens"
    ) from error
  if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
    raise errors.UserError(
      f"token file {path} has {found.dtype} {found.shape}; it must have"
      " integers along one axis, as data.write_tokens writes"
    )
  return Saved(path, 0, len(found))


def _maker(path: pathlib.Path) -> pathlib.Path:
  """Where it is said which tokenizer made a file."""
  return path.with_suffix(".json")


def _check_maker(path: pathlib.Path, tokenizer: _tokens.Tokenizer) -> None:
  """Raises if a file says that another tokenizer made it.

  Raises:
    errors.UserError: if so.
  """
  said = _maker(path)
  if not said.is_file():
    return
  digest = json.loads(said.read_text("utf-8")).get("tokenizer")
  if digest != tokenizer.digest:
    raise errors.UserError(
      f"token file {path}: {said.name} beside it says that another tokenizer"
      f" made it ({digest}, not {tokenizer.digest}); set tokenizer to that one"
    )


def _bytes_of(part: Saved, tokenizer: _tokens.Tokenizer) -> float:
  """About how many bytes of text tokens stand for; of a few, exactly."""
  tokens = part.array
  if len(tokens) <= _STRETCHES * _STRETCH:
    return len(tokenizer.decode(tokens.tolist()).encode())
  starts = np.linspace(0, len(tokens) - _STRETCH, _STRETCHES).astype(int)
  texts = [tokenizer.decode(tokens[i : i + _STRETCH].tolist()) for i in starts]
  seen = sum(len(text.encode()) for text in texts)
  return seen / (_STRETCHES * _STRETCH) * len(tokens)


def write_tokens(
  path: str | os.PathLike[str],
  texts: Iterable[str],
  tokenizer: str | _tokens.Tokenizer,
) -> int:
  """Writes a file of tokens that `data.text` reads without loading it.

  Behind each text comes the end-of-text token. Texts are taken from the
  iterable as they are needed, so that a corpus may be larger than memory. A
  file of the same name that ends in ".json" says which tokenizer it was, and
  `data.text` refuses another one.

  Args:
    path: of the file, which must end in ".npy": integers of 2 bytes, or of 4
      from 65,537 tokens on, along one axis.
    texts: documents.
    tokenizer: or its name, as `read_tokenizer` takes it.

  Returns:
    How many tokens were written.

  Raises:
    errors.UserError: if the path has another ending, or there is no such
      tokenizer, or it has no end-of-text token.
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix != ".npy":
    raise errors.UserError(f"{path} must end in .npy, by which it is known")
  if isinstance(tokenizer, str):
    name, made = tokenizer, _tokens.read(tokenizer)
  else:
    name, made = tokenizer.digest, tokenizer
  _tokens.check(name, made, NEEDED)
  kind = np.dtype(_tokens.typecode(made.size))
  if isinstance(texts, str):
    raise errors.UserError(
      "texts is one text; give documents, as [text] or lines of a file"
    )
  part, count = path.with_suffix(f".{os.getpid()}"), 0
  with _or_removed(part) as file:
    _head(file, kind, 0)
    start = file.tell()
    for ids, _ in encoded(texts, made):
      file.write(np.asarray(ids, kind).tobytes())
      count += len(ids)
    file.seek(0)
    _head(file, kind, count)
    # NumPy leaves room for the size that is known only now.
    assert file.tell() == start
  part.replace(path)
  said = json.dumps({"tokenizer": made.digest, "tokens": count})
  _maker(path).write_text(said + "\n", "utf-8")
  return count


@contextlib.contextmanager
def _or_removed(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write, which does not stay if that fails."""
  try:
    with path.open("wb") as file:
      yield file
  except BaseException:
    path.unlink(missing_ok=True)
    raise


def _head(file: BinaryIO, kind: np.dtype, count: int) -> None:
  header = {"descr": kind.str, "fortran_order": False, "shape": (count,)}
  np.lib.format.write_array_header_1_0(file, header)
