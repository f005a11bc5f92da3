"""Text with hidden words, and the question whether two texts belong together.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding", 2019.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jbin import errors
from jbin.data import (
  _base,
  _documents,
  _masking,
  _packing,
  _random,
  _records,
  _tokens,
)

_EVAL_SEED = 1

# A document is a list of sentences; texts may be read more than once.
_Documents = Callable[[], Iterator[list[str]]]


@_base.REGISTRY.register
def masked_text(
  files: Sequence[str] = (),
  dataset: str = "",
  data_dir: str | None = None,
  text_key: str = "text",
  eval_files: Sequence[str] = (),
  eval_share: float = 0.1,
  train_split: str = "train",
  eval_split: str = "validation",
  tokenizer: str = "wordpiece",
  vocab_size: int = 0,
  vocab_files: Sequence[str] = (),
  length: int = 128,
  next_sentence: bool = True,
  mask_share: float = 0.15,
) -> _base.Dataset:
  """Masked language modelling and next-sentence prediction on any text.

  An example is [CLS] text [SEP] text [SEP] from one document, or with
  probability 1/2 the second text is from another: "label" is 0 if it follows,
  1 if not, as BERT has it. Of the tokens of the texts, `mask_share` are chosen,
  at least one; 80 % of the chosen become [MASK], 10 % a random token, 10 %
  stay. "targets" holds what was there, -1 elsewhere. All of this is chosen anew
  whenever a training example is read; of an evaluation example by a hash of its
  index, once for all.

  In text files, blank lines and WikiText's headings separate documents, and the
  headings are left out; in a prepared data set a record is a document. A line
  ends a sentence, and so do ".", "!" and "?". Examples are made of whole
  sentences, as many as find room; none is longer than half of the room. The
  encoded text is kept in memory, 2 bytes a token (4 from 65,537 tokens on).

  Args:
    files: one text file or several, UTF-8; or give `dataset`.
    dataset: a prepared TensorFlow Datasets set, as "wiki40b/en:1.3.0".
    data_dir: the folder of prepared data sets; None: the environment variable
      TFDS_DATA_DIR, else ~/tensorflow_datasets.
    text_key: its feature that holds the text.
    eval_files: text files to evaluate on.
    eval_share: of the documents of `files`, held out if there are none: those
      of the least hashes of their index.
    train_split: of `dataset`.
    eval_split: of `dataset`.
    tokenizer: "wordpiece": BERT's, lower-case, learned from the training
      documents; "bytes"; or the path of a vocab.txt, of a tokenizer.json, or
      of a folder with one of them; or a name of the hub, "org/name".
    vocab_size: what the model needs; 0: 8192 for "wordpiece", which learns at
      most as many pieces, else what the file has.
    vocab_files: text files that "wordpiece" learns from in their place.
    length: tokens of an example, special ones and padding too.
    next_sentence: False: examples are [CLS] text [SEP], without "label".
    mask_share: above 0, at most 1.

  Raises:
    errors.UserError: if a file is not there or empty, the data set is not
      there, the tokenizer is not or has no [MASK], there is too little text,
      or options contradict each other.

  Differs from the paper in: BERT makes its examples once, a tenth of them
  shorter, and cuts what overflows at either end; its random tokens may be
  special ones.
  """
  _packing.check(length, 2 if next_sentence else 1)
  _check(files, dataset, mask_share)
  if dataset:
    splits = (train_split, eval_split)
    train, test = _prepared(dataset, data_dir, text_key, splits)
  else:
    train, test = _of_files(files, eval_files, eval_share)
  vocabulary = _tokens.choose(
    tokenizer,
    vocab_size,
    lambda: (sentence for document in train() for sentence in document),
    vocab_files,
    needed=(*_packing.NEEDED, "mask"),
  )
  readers = [
    _reader(part, what, vocabulary, length, next_sentence, mask_share)
    for part, what in ((train, "training"), (test, "evaluation"))
  ]
  features = {
    **_base.text_features(length),
    "targets": _base.Feature((length,), np.int32),
  }
  offers = {"vocab_size": vocabulary.size, "max_length": length}
  if next_sentence:
    features["label"] = _base.Feature((), np.int32)
    offers["num_classes"] = 2
  return _base.Dataset(
    name=dataset or "masked_text",
    features=features,
    offers=offers,
    num_train=len(readers[0].chunks),
    num_eval=len(readers[1].chunks),
    read_train=readers[0],
    read_eval=readers[1],
    tokenizer=vocabulary.tokenizer.get,
    draws=readers[0].draws,
  )


def _check(files: Sequence[str], dataset: str, mask_share: float) -> None:
  """Raises for options that say nothing, or too much."""
  if not 0 < mask_share <= 1:
    raise errors.UserError(
      f"mask_share is {mask_share}; it must be above 0 and at most 1"
    )
  if bool(files) == bool(dataset):
    raise errors.UserError(
      "masked text needs either files or dataset; set --config.data.files to"
      " the path of a text file, or --config.data.dataset to the name of a"
      " prepared text set"
    )


def _of_files(
  files: Sequence[str], eval_files: Sequence[str], eval_share: float
) -> tuple[_Documents, _Documents]:
  """The documents to train and to evaluate on.

  Raises:
    errors.UserError: if a file is not there, or nothing could be held out.
  """
  if not eval_files:
    _documents.check_share(eval_share)

  def read(names: Sequence[str], option: str) -> list[list[str]]:
    texts = map(_documents.read, _documents.paths(names, option))
    return [each for text in texts for each in _documents.of_text(text)]

  documents = read(files, "files")
  if eval_files:
    held_out = read(eval_files, "eval_files")
  else:
    documents, held_out = _documents.hold_out(documents, eval_share)
  return lambda: iter(documents), lambda: iter(held_out)


def _prepared(
  name: str,
  data_dir: str | None,
  key: str,
  splits: tuple[str, str],
) -> tuple[_Documents, _Documents]:
  """The documents of a prepared data set.

  Raises:
    errors.UserError: if it, a split or the feature is not there.
  """
  found = _records.find(name, data_dir)
  _records.check_text(found, key, "text_key")

  def documents(split: _records.Split) -> Iterator[list[str]]:
    return map(_documents.of_record, found.texts(split, key))

  train, test = (found.split(split) for split in splits)
  return lambda: documents(train), lambda: documents(test)


def _reader(
  documents: _Documents,
  what: str,
  vocabulary: _tokens.Vocabulary,
  length: int,
  pairs: bool,
  share: float,
) -> _Reader:
  """Encodes documents and fills examples with them.

  Raises:
    errors.UserError: if there is no example, or none to pair one with.
  """
  coder = vocabulary.tokenizer.get()
  room = length - (3 if pairs else 2)
  chunks = _masking.chunks(
    map(coder.encode, documents()), room, pairs, coder.size
  )
  count = len(np.unique(chunks.document[:, 0]))
  if not len(chunks) or (pairs and count < 2):
    needed = "two documents of two sentences each" if pairs else "a document"
    raise errors.UserError(
      f"the {what} text has {count} documents of use, and {needed} at least are"
      " needed; give more text, or hold out another share of it"
      f"{', or set next_sentence=False' if pairs else ''}"
    )
  special = dict(coder.special)
  return _Reader(chunks, length, pairs, share, special, coder.ordinary)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
  """The encoded text; a pickle carries it, and no tokenizer."""

  chunks: _masking.Chunks
  length: int
  pairs: bool
  share: float
  special: dict[str, int]
  ordinary: np.ndarray

  @property
  def draws(self) -> int:
    """Random numbers that an example takes."""
    return 2 * self.length + (_masking.PAIR_DRAWS if self.pairs else 0)

  def __call__(
    self, indices: np.ndarray, draws: np.ndarray | None
  ) -> _base.Batch:
    if draws is None:
      draws = _random.uniforms(_EVAL_SEED, indices, self.draws)
    pack = functools.partial(
      _packing.pack, length=self.length, special=self.special
    )
    extra = {}
    if self.pairs:
      own = draws[:, 2 * self.length :]
      room = self.length - 3
      first, second, extra["label"] = self.chunks.pairs(indices, own, room)
      packed = pack(first, second)
    else:
      packed = pack(self.chunks.whole(indices), None)
    features = packed.features()
    features["tokens"], targets = _masking.mask(
      packed.tokens,
      packed.texts(),
      draws[:, : 2 * self.length],
      self.share,
      self.special["mask"],
      self.ordinary,
    )
    return {**features, "targets": targets, **extra}
