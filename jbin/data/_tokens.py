"""Tokenizers: bytes, a WordPiece learned from the text at hand, or a file's.

Ids are what Hugging Face's `tokenizers` gives. What a text becomes beyond its
own ids (special tokens, truncation, padding) is its source's.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jbin import errors
from jbin.data import _decoding, _documents, _lazy, _wordpiece

VOCAB_SIZE = 8192
FILES = ("tokenizer.json", "vocab.txt")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """From texts to ids, and back.

  Attributes:
    size: ids are 0 to size - 1.
    special: the ids of "pad", "unk", "cls", "sep" and "mask", as far as there
      are such.
    digest: of what makes the ids: another one, other ids.
    encode_some: the ids of some texts, without special tokens.
    decode_some: the text of some ids, none of them special but "unk".
    first_byte: the id of the byte 0, where ids are bytes; else None.
  """

  size: int
  special: Mapping[str, int]
  digest: str
  encode_some: Callable[[Sequence[str]], list[list[int]]]
  decode_some: Callable[[Sequence[int]], str]
  first_byte: int | None = None

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens."""
    parts = range(0, len(texts), _AT_ONCE)
    return [
      ids
      for start in parts
      for ids in self.encode_some(texts[start : start + _AT_ONCE])
    ]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids; special tokens but WordPiece's [UNK] are left out.

    Bytes that are no UTF-8 become U+FFFD. What an encoder changed (WordPiece's
    capitals and spaces) stays so.

    Args:
      ids: of this tokenizer; larger ones, which a model with a rounded-up
        vocabulary may give, are left out.
    """
    return self.decode_some(self._shown(ids))

  def stream(self) -> _decoding.Stream:
    """A decoder of one id after another, for text that is still being made."""
    if self.first_byte is not None:
      return _decoding.OfBytes(self._shown, self.first_byte)
    return _decoding.OfTexts(self._shown, self.decode_some)

  def _shown(self, ids: Iterable[int]) -> list[int]:
    # Bytes know no unknown text, and have none for it.
    kept = ("unk",) if self.first_byte is None else ()
    hidden = {i for kind, i in self.special.items() if kind not in kept}
    return [int(i) for i in ids if 0 <= i < self.size and i not in hidden]

  @property
  def ordinary(self) -> np.ndarray:
    """All ids but those of special tokens, ascending: (n,) int32."""
    ids = np.setdiff1d(np.arange(self.size), [*self.special.values()])
    return ids.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """A tokenizer that may not be there yet.

  Attributes:
    size: rows that a model's table of embeddings needs.
    tokenizer: is learned or read when it is first asked for.
  """

  size: int
  tokenizer: _lazy.Lazy[Tokenizer]


def choose(
  name: str,
  vocab_size: int,
  texts: Callable[[], Iterable[str]],
  files: Sequence[str] = (),
  *,
  needed: Sequence[str],
) -> Vocabulary:
  """The vocabulary that a source's arguments name.

  Args:
    name: "wordpiece" (learned from `texts`), "bytes", or as for `read`.
    vocab_size: 0: 8192 for "wordpiece", else what there is.
    texts: gives the training texts.
    files: to learn from in their place.
    needed: the kinds of special tokens that the source puts into examples.

  Raises:
    errors.UserError: if there is no such tokenizer, it has more than
      `vocab_size` tokens or not those that are needed, or it does not learn and
      there are files.
  """
  found = _documents.paths(files, "vocab_files")
  if name == "wordpiece":
    size = vocab_size or VOCAB_SIZE

    def learn() -> Tokenizer:
      return wordpiece(_documents.lines(found) if found else texts(), size)

    return Vocabulary(size, _lazy.Lazy(learn))
  if found:
    raise errors.UserError(
      "vocab_files are what 'wordpiece' learns from, and tokenizer is"
      f" {name!r}; leave one out"
    )
  made = read(name)
  check(name, made, needed)
  if vocab_size and vocab_size < made.size:
    raise errors.UserError(
      f"vocab_size is {vocab_size}, and tokenizer {name!r} has {made.size}"
      " tokens; set vocab_size to that or more, or to 0"
    )
  return Vocabulary(vocab_size or made.size, _lazy.Lazy(lambda: made))


def check(name: str, made: Tokenizer, needed: Iterable[str]) -> None:
  """Raises if a tokenizer lacks a special token.

  Args:
    name: the tokenizer's, for the message.
    made: it.
    needed: kinds of special tokens.

  Raises:
    errors.UserError: with the names that it could have.
  """
  for kind in needed:
    if kind not in made.special:
      raise errors.UserError(
        f"tokenizer {name!r} cannot be used: it has no token"
        f" {' or '.join(_wordpiece.SPECIAL[kind])}, which {_USES[kind]}; set"
        " tokenizer to one that has"
      )


_USES = {
  "pad": "fills texts up",
  "cls": "begins each text",
  "sep": "ends each text",
  "mask": "hides words",
}


def _bytes() -> Tokenizer:
  """Byte b of UTF-8 is token b + 5; no text is unknown to it."""
  special = {kind: i for i, kind in enumerate(_wordpiece.SPECIAL)}
  first = len(special)

  def encode(texts: Sequence[str]) -> list[list[int]]:
    return [
      (np.frombuffer(text.encode(), np.uint8).astype(int) + first).tolist()
      for text in texts
    ]

  def decode(ids: Sequence[int]) -> str:
    return bytes(i - first for i in ids).decode(errors="replace")

  return Tokenizer(256 + first, special, "bytes", encode, decode, first)


def wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
  """BERT's tokenizer, lower-case, with a vocabulary learned from texts.

  Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the characters (the
  1000 most frequent ones), then merged pieces, the first merged first. The same
  words, each as often, give the same vocabulary, which is kept: in memory, and
  in the folder that the environment variable JBIN_CACHE names, if it does.

  Args:
    texts: what is read for it.
    vocab_size: pieces at most; a short text has fewer.

  Raises:
    errors.UserError: if there is no text, or the special tokens and characters
      alone are more than `vocab_size`.
  """
  words = _wordpiece.words_of(texts)
  if not words:
    raise errors.UserError(
      "there is no text to learn a WordPiece vocabulary from; set tokenizer to"
      " 'bytes' or to the path of a vocab.txt"
    )
  return of_pieces(_wordpiece.learned(tuple(sorted(words.items())), vocab_size))


def of_pieces(pieces: Sequence[str]) -> Tokenizer:
  """BERT's tokenizer of these pieces, in the order of their ids.

  Text is made lower-case, and loses its accents, if that changes no piece.

  Raises:
    errors.UserError: if a special token is missing.
  """
  import tokenizers
  from tokenizers import models

  ids = {piece: i for i, piece in enumerate(pieces)}
  special = _special(ids)
  if "unk" not in special:
    raise errors.UserError(
      "a WordPiece vocabulary needs a token [UNK] for what it cannot spell;"
      " there is none"
    )
  cased = any(
    piece != piece.lower()
    for piece, i in ids.items()
    if i not in special.values() and not piece.startswith("[unused")
  )
  model = models.WordPiece(
    vocab=ids,
    unk_token=pieces[special["unk"]],
    max_input_chars_per_word=100,
    continuing_subword_prefix=_wordpiece.INSIDE,
  )
  made = tokenizers.Tokenizer(model)
  made.normalizer, made.pre_tokenizer = _wordpiece.parts(lowercase=not cased)
  # Before the decoder is set, which changes no id.
  digest = _digest(made.to_str())
  made.decoder = _wordpiece.decoder()
  return _of_library(made, len(pieces), special, digest)


def read(name: str) -> Tokenizer:
  """The tokenizer of a file, a folder or a repository of the hub, or "bytes".

  Args:
    name: "bytes"; a path: of a text file with a piece a line (BERT's
      vocab.txt), of a tokenizer.json, or of a folder with one of them,
      tokenizer.json first; or a hub id, "org/name" or "org/name@revision", of
      which only these two files are fetched.

  Raises:
    errors.UserError: if there is none, or it cannot be used.
  """
  if name == "bytes":
    return _bytes()
  path = pathlib.Path(name).expanduser()
  if not path.exists():
    path = _missing(name)
  if path.is_dir():
    files = [path / file for file in FILES if (path / file).is_file()]
    if not files:
      there = ", ".join(sorted(each.name for each in path.iterdir()))
      raise errors.UserError(
        f"tokenizer {name!r} has neither {' nor '.join(FILES)}, but"
        f" {there or 'nothing'}"
      )
    path = files[0]
  try:
    if path.suffix == ".json":
      return _of_json(path)
    return of_pieces(_wordpiece.lines(path))
  except (errors.UserError, UnicodeDecodeError) as error:
    raise errors.UserError(
      f"tokenizer {path} cannot be used: {error}"
    ) from error


def _missing(name: str) -> pathlib.Path:
  """The folder of a hub repository's tokenizer.

  Raises:
    errors.UserError: if it is none, or cannot be had.
  """
  if not any(mark in name for mark in (os.sep, ".")):
    unknown = errors.UnknownName("tokenizer", name, ("wordpiece", "bytes"))
    raise errors.UserError(
      f"{unknown} It may also be the path of a {' or '.join(FILES)}, or a name"
      " of the hub, org/name"
    )
  wanted = f"give {' or '.join(FILES)}, or a folder with one of them"
  if not _HUB_ID.fullmatch(name) or name.endswith((".txt", ".json")):
    raise errors.UserError(
      f"there is no tokenizer at {name}; {wanted}, a hub id, 'wordpiece' or"
      " 'bytes'"
    )
  import huggingface_hub

  repository, _, revision = name.partition("@")
  try:
    folder = huggingface_hub.snapshot_download(
      repository, revision=revision or None, allow_patterns=[*FILES]
    )
  except (OSError, ValueError) as error:
    why = f"{type(error).__name__}: {error}".split("\n")[0]
    raise errors.UserError(
      f"tokenizer {name}: there is no such file or folder, and the hub did not"
      f" give it ({why}); without a network, {wanted}"
    ) from error
  return pathlib.Path(folder)


def _of_json(path: pathlib.Path) -> Tokenizer:
  import tokenizers

  try:
    made = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises no narrower one
    raise errors.UserError(
      f"{error}; it must be a tokenizer.json as Hugging Face's tokenizers saves"
    ) from error
  made.no_truncation()
  made.no_padding()
  ids = made.get_vocab()
  # Not their number: there may be gaps.
  size = max(ids.values(), default=-1) + 1
  return _of_library(made, size, _special(ids), _digest(made.to_str()))


def _of_library(
  made: Any, size: int, special: Mapping[str, int], digest: str
) -> Tokenizer:
  """A tokenizer of Hugging Face's library."""
  return Tokenizer(
    size,
    special,
    digest,
    functools.partial(_encode, made),
    functools.partial(_decode, made),
  )


def typecode(size: int) -> str:
  """Of the least integers that hold ids below `size`: 2 bytes, or 4."""
  return "H" if size <= 2**16 else "i"


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _special(ids: Mapping[str, int]) -> dict[str, int]:
  """The ids of the special tokens, by kind, as far as there are such."""
  return {
    kind: ids[name]
    for kind, names in _wordpiece.SPECIAL.items()
    for name in reversed(names)
    if name in ids
  }


def _encode(made: Any, texts: Sequence[str]) -> list[list[int]]:
  # "[SEP]" in a text is text.
  made.encode_special_tokens = True
  found = made.encode_batch_fast(list(texts), add_special_tokens=False)
  return [each.ids for each in found]


def _decode(made: Any, ids: Sequence[int]) -> str:
  return made.decode(list(ids), skip_special_tokens=True)
