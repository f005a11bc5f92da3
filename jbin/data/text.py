"""Text that goes on: every token is predicted from those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jbin import errors
from jbin.data import _base, _documents, _joined, _records, _tokens


@dataclasses.dataclass(frozen=True)
class _Corpus:
  """Texts, which may be read more than once, and files of tokens."""

  texts: Callable[[], Iterator[str]]
  files: tuple[_joined.Saved, ...] = ()


@_base.REGISTRY.register
def text(
  files: Sequence[str] = (),
  dataset: str = "",
  data_dir: str | None = None,
  text_key: str = "text",
  eval_files: Sequence[str] = (),
  eval_share: float = 0.1,
  train_split: str = "train",
  eval_split: str = "validation",
  tokenizer: str = "bytes",
  vocab_size: int = 0,
  vocab_files: Sequence[str] = (),
  length: int = 256,
) -> _base.Dataset:
  """Next-token prediction on any text; without any, on Python's documentation.

  The tokens of all documents stand in one line, an end-of-text token behind
  each document, and row i of the line t is t[i n : i n + n + 1] for n =
  `length`: "tokens" are its first n, "targets" its last n. So each token but
  the first is predicted once in an epoch, and rows begin anywhere in a text,
  also behind the end of another one. What is left behind the last whole row is
  not used.

  "target_bytes" is how many bytes of UTF-8 a row's targets stand for, the
  denominator of bits per byte. With tokenizer="bytes" it is exact, with any
  other the number of targets times the split's mean over its line, all tokens
  counted. An end-of-text token is predicted like any other and stands for no
  byte.

  A text file is one document and stays as it is, line breaks included; the
  last `eval_share` of each is held out, from the start of the line where it
  begins. In a prepared data set a record is a document, of Wiki-40B without its
  markers. Without `files` and `dataset` the text is that of Python's own help
  topics (`pydoc_data.topics`: English, 79 documents and 466 kB in Python 3.11,
  other numbers in other versions), and the documents of the least hashes of
  their index are held out. Text is encoded once and kept in memory, 2 bytes a
  token (4 from 65,537 tokens on); a corpus that is larger than memory is
  written by `data.write_tokens` and named in `files`. While a document is
  encoded it takes some 15 bytes of memory a character.

  Args:
    files: text files, UTF-8, or files of tokens (.npy), one or several; or give
      `dataset`. Files of tokens come behind the others.
    dataset: a prepared TensorFlow Datasets set, as "wiki40b/en:1.3.0",
      "c4/en", "lm1b".
    data_dir: the folder of prepared data sets; None: the environment variable
      TFDS_DATA_DIR, else ~/tensorflow_datasets.
    text_key: its feature that holds the text.
    eval_files: such files to evaluate on.
    eval_share: is held out where there are none.
    train_split: of `dataset`, as "train" or "train[:1%]".
    eval_split: of `dataset`.
    tokenizer: "bytes"; "wordpiece": BERT's, lower-case and without line breaks,
      learned from the training text; or the path of a tokenizer.json, of a
      vocab.txt, or of a folder with one of them; or a name of the hub,
      "org/name".
    vocab_size: what the model needs; 0: 8192 for "wordpiece", which learns at
      most as many pieces, else what the tokenizer has.
    vocab_files: text files that "wordpiece" learns from in their place.
    length: tokens of a row.

  Raises:
    errors.UserError: if a file is not there or empty, the data set is not
      there, the tokenizer is not or has no end-of-text token, a split has not
      one row, or options contradict each other.
  """
  if length < 1:
    raise errors.UserError(f"length is {length}; it must be 1 token or more")
  if files and dataset:
    raise errors.UserError(
      "text comes from files or from a dataset, and both are given; leave one"
      " out"
    )
  if dataset:
    train, test = _prepared(
      dataset, data_dir, text_key, train_split, eval_split
    )
  elif files:
    train, test = _of_files(files, eval_files, eval_share)
  else:
    train, test = _documentation(eval_files, eval_share)
  if tokenizer == "wordpiece" and train.files and not vocab_files:
    raise errors.UserError(
      f"tokenizer 'wordpiece' learns from text, and {train.files[0].path} has"
      " tokens already; set tokenizer to the one that made it"
    )
  vocabulary = _tokens.choose(
    tokenizer, vocab_size, train.texts, vocab_files, needed=_joined.NEEDED
  )
  readers = [
    _reader(part, what, vocabulary.tokenizer.get(), length)
    for part, what in ((train, "training"), (test, "evaluation"))
  ]
  row = _base.Feature((length,), np.int32)
  return _base.Dataset(
    name=dataset or "text",
    features={
      "tokens": row,
      "targets": row,
      "target_bytes": _base.Feature((), np.float32),
    },
    offers={"vocab_size": vocabulary.size, "max_length": length},
    num_train=readers[0].size,
    num_eval=readers[1].size,
    read_train=readers[0],
    read_eval=readers[1],
    tokenizer=vocabulary.tokenizer.get,
  )


def _documentation(
  eval_files: Sequence[str], eval_share: float
) -> tuple[_Corpus, _Corpus]:
  """Python's help topics, in the order of their names."""
  from pydoc_data import topics

  documents = [page for _, page in sorted(topics.topics.items())]
  if eval_files:
    return _corpus(documents), _whole(eval_files, "eval_files")
  _documents.check_share(eval_share)
  kept, held_out = _documents.hold_out(documents, eval_share)
  return _corpus(kept), _corpus(held_out)


def _corpus(
  texts: Sequence[str], files: Sequence[_joined.Saved] = ()
) -> _Corpus:
  return _Corpus(lambda: iter(texts), tuple(files))


def _of_files(
  files: Sequence[str], eval_files: Sequence[str], eval_share: float
) -> tuple[_Corpus, _Corpus]:
  """What to train and to evaluate on.

  Raises:
    errors.UserError: if a file is not there.
  """
  whole = _whole(files, "files")
  if eval_files:
    return whole, _whole(eval_files, "eval_files")
  _documents.check_share(eval_share)
  texts = [_cut(text, eval_share) for text in whole.texts()]
  tokens = [_cut_tokens(each, eval_share) for each in whole.files]
  parts = [
    _corpus([text[i] for text in texts], [each[i] for each in tokens])
    for i in range(2)
  ]
  return parts[0], parts[1]


def _whole(files: Sequence[str], option: str) -> _Corpus:
  """All of some files.

  Raises:
    errors.UserError: if one is not there, or none.
  """
  paths = _documents.paths(files, option)
  saved = {path for path in paths if path.suffix.lower() == ".npy"}
  return _corpus(
    [_documents.read(path) for path in paths if path not in saved],
    [_joined.saved(path) for path in paths if path in saved],
  )


def _cut(text: str, share: float) -> tuple[str, str]:
  """The first part, and the last, of that share, from a line's start."""
  at = round((1 - share) * len(text))
  at = text.rfind("\n", 0, at) + 1 or at
  return text[:at], text[at:]


def _cut_tokens(
  whole: _joined.Saved, share: float
) -> tuple[_joined.Saved, _joined.Saved]:
  at = round((1 - share) * whole.stop)
  return (
    dataclasses.replace(whole, stop=at),
    dataclasses.replace(whole, start=at),
  )


def _prepared(
  name: str, data_dir: str | None, key: str, *splits: str
) -> tuple[_Corpus, _Corpus]:
  """The documents of a prepared data set.

  Raises:
    errors.UserError: if it, a split or the feature is not there.
  """
  found = _records.find(name, data_dir)
  _records.check_text(found, key, "text_key")
  train, test = (found.split(split) for split in splits)

  def texts(split: _records.Split) -> Iterator[str]:
    return map(_documents.plain, found.texts(split, key))

  return _Corpus(lambda: texts(train)), _Corpus(lambda: texts(test))


def _reader(
  corpus: _Corpus, what: str, tokenizer: _tokens.Tokenizer, length: int
) -> _Reader:
  """Encodes a split.

  Raises:
    errors.UserError: if it has not one row.
  """
  line = _joined.joined(corpus.texts(), corpus.files, tokenizer)
  if len(line) <= length:
    raise errors.UserError(
      f"the {what} text has {len(line)} tokens, and a row of length {length}"
      f" needs {length + 1}; give more text, hold out another share of it, or"
      " set length to less"
    )
  return _Reader(line, length, tokenizer.first_byte)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
  """The line of tokens; a pickle carries it, and no tokenizer."""

  line: _joined.Line
  length: int
  first_byte: int | None

  @property
  def size(self) -> int:
    """How many rows there are."""
    return (len(self.line) - 1) // self.length

  def __call__(
    self, indices: np.ndarray, draws: np.ndarray | None
  ) -> _base.Batch:
    del draws
    starts = (self.length * indices).tolist()
    rows = [self.line.take(i, i + self.length + 1) for i in starts]
    tokens = np.stack(rows)
    targets = tokens[:, 1:]
    if self.first_byte is None:
      mean = self.line.text_bytes / len(self.line)
      count = np.full(len(tokens), self.length * mean)
    else:
      count = np.sum(targets >= self.first_byte, axis=1)
    return {
      "tokens": np.ascontiguousarray(tokens[:, :-1]),
      "targets": np.ascontiguousarray(targets),
      "target_bytes": count.astype(np.float32),
    }
