"""Sentences, or pairs of them, with a class or a number: GLUE and its like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jbin import errors
from jbin.data import _base, _lazy, _packing, _records, _tokens

# What data sets call their texts: GLUE's tasks, then others.
KNOWN_KEYS = (
  ("sentence1", "sentence2"),
  ("question1", "question2"),
  ("premise", "hypothesis"),
  ("question", "sentence"),
  ("sentence",),
  ("text",),
)
# MNLI has two for evaluation; the first is the one that is meant.
EVAL_SPLITS = ("validation", "validation_matched", "test")
_HIDDEN = -1
_GLANCE = 64
_AT_ONCE = 4096


@_base.REGISTRY.register
def sentences(
  dataset: str = "stanford_sentiment",
  data_dir: str | None = None,
  text_keys: Sequence[str] | None = None,
  label_key: str = "label",
  train_split: str = "train",
  eval_split: str = "",
  tokenizer: str = "wordpiece",
  vocab_size: int = 0,
  vocab_files: Sequence[str] = (),
  length: int = 128,
) -> _base.Dataset:
  """A prepared TensorFlow Datasets set of sentences or pairs: SST, GLUE, ...

  A text becomes [CLS] text [SEP], a pair [CLS] text [SEP] text [SEP]; what is
  longer than `length` loses its last tokens, of a pair the longer text first.
  A split is read and encoded once, when it is first asked for, and kept. A
  label that is a number, as STS-B's, makes a regression: "label" is float32
  then, and `num_classes` 1.

  Args:
    dataset: its name, as "stanford_sentiment", "glue/sst2" or "glue/mnli".
    data_dir: the folder of prepared data sets; None: the environment variable
      TFDS_DATA_DIR, else ~/tensorflow_datasets.
    text_keys: the features that hold the texts, one or two; None: those of
      GLUE's tasks, or "text".
    label_key: the feature that holds the class or the number.
    train_split: as "train" or "train[:90%]".
    eval_split: as "validation"; "": that, of MNLI "validation_matched", of a
      data set without either "test".
    tokenizer: "wordpiece": BERT's, lower-case, learned from the training
      split; "bytes"; or the path of a vocab.txt, of a tokenizer.json, or of a
      folder with one of them; or a name of the hub, "org/name".
    vocab_size: what the model needs; 0: 8192 for "wordpiece", which learns at
      most as many pieces, else what the file has.
    vocab_files: text files that "wordpiece" learns from in place of the
      training split, so that several data sets share a vocabulary.
    length: tokens of an example, special ones and padding too.

  Raises:
    errors.UserError: if the data set is not there, not in a format with random
      access, has no such split or feature, or hides its labels; if there is no
      such tokenizer.
  """
  found = _records.find(dataset, data_dir)
  keys = _text_keys(found, text_keys)
  _packing.check(length, len(keys))
  source = _Source(found, keys, label_key, _classes(found, label_key))
  if not eval_split:
    there = [name for name in EVAL_SPLITS if name in found.splits]
    eval_split = (there or EVAL_SPLITS)[0]
  splits = [found.split(name) for name in (train_split, eval_split)]
  for split in splits:
    # A look at the first ones, so that no run is lost to it later.
    source.check(split, source.read(split, 0, _GLANCE)[1])
  vocabulary = _tokens.choose(
    tokenizer,
    vocab_size,
    lambda: source.texts(splits[0]),
    vocab_files,
    needed=_packing.NEEDED,
  )
  readers = [
    _Reader(_lazy.Lazy(_Encoding(source, split, vocabulary, length)))
    for split in splits
  ]
  label = _base.Feature((), np.int32 if source.classes else np.float32)
  return _base.Dataset(
    name=dataset,
    features={**_base.text_features(length), "label": label},
    offers={
      "num_classes": source.classes or 1,
      "vocab_size": vocabulary.size,
      "max_length": length,
    },
    num_train=splits[0].size,
    num_eval=splits[1].size,
    read_train=readers[0],
    read_eval=readers[1],
    tokenizer=vocabulary.tokenizer.get,
  )


def _text_keys(
  found: _records.Found, given: Sequence[str] | None
) -> tuple[str, ...]:
  """The features that hold the texts.

  Raises:
    errors.UserError: if there are none, or they are no texts.
  """
  if given is None:
    known = [keys for keys in KNOWN_KEYS if {*keys} <= {*found.features}]
    if not known:
      raise errors.UserError(
        f"{found.name} has none of the features that texts are known by; set"
        f" text_keys to one or two of {', '.join(found.features)}"
      )
    given = known[0]
  keys = (given,) if isinstance(given, str) else tuple(given)
  if len(keys) not in (1, 2):
    raise errors.UserError(
      f"text_keys has {len(keys)} names; give one, or two for pairs"
    )
  for key in keys:
    _records.check_text(found, key, "text_keys")
  return keys


def _classes(found: _records.Found, key: str) -> int:
  """How many classes there are; 0 for a number.

  Raises:
    errors.UserError: if the label is neither.
  """
  feature = found.feature(key, "label_key")
  if hasattr(feature, "num_classes"):
    return int(feature.num_classes)
  if feature.shape or not np.issubdtype(feature.np_dtype, np.floating):
    raise errors.UserError(
      f"feature {key!r} of {found.name} is neither a class nor a number:"
      f" {feature}; choose another with label_key"
    )
  return 0


@dataclasses.dataclass(frozen=True)
class _Source:
  """Texts and labels of a prepared data set; `classes` is 0 for numbers."""

  found: _records.Found
  keys: tuple[str, ...]
  label_key: str
  classes: int

  def read(
    self, split: _records.Split, start: int, stop: int
  ) -> tuple[list[list[str]], np.ndarray]:
    """Columns of texts, one for each key, and labels."""
    stop = min(stop, split.size)
    records: list[Any] = self.found.open(split).__getitems__(
      list(range(start, stop))
    )
    columns = [[each[key].decode() for each in records] for key in self.keys]
    kind = np.int32 if self.classes else np.float32
    return columns, np.asarray([each[self.label_key] for each in records], kind)

  def parts(
    self, split: _records.Split
  ) -> Iterator[tuple[list[list[str]], np.ndarray]]:
    """As `read`, of the whole split, a part at a time."""
    for start in range(0, split.size, _AT_ONCE):
      yield self.read(split, start, start + _AT_ONCE)

  def texts(self, split: _records.Split) -> Iterator[str]:
    """All texts of a split."""
    for columns, _ in self.parts(split):
      for column in columns:
        yield from column

  def check(self, split: _records.Split, labels: np.ndarray) -> None:
    """Raises if labels are hidden, as those of GLUE's test splits are.

    Raises:
      errors.UserError: naming other splits.
    """
    hidden = labels == _HIDDEN
    # A number may well be -1, but not all of them.
    if hidden.any() if self.classes else hidden.all():
      name = split.name.split("[")[0]
      others = [other for other in self.found.splits if other != name]
      raise errors.UserError(
        f"split {split.name!r} of {self.found.name} hides its labels (they are"
        f" {_HIDDEN}); choose another split: {', '.join(others)}"
      )


@dataclasses.dataclass(frozen=True)
class _Encoding:
  """Reads and encodes a whole split."""

  source: _Source
  split: _records.Split
  vocabulary: _tokens.Vocabulary
  length: int

  def __call__(self) -> tuple[_packing.Packed, np.ndarray]:
    tokenizer = self.vocabulary.tokenizer.get()
    packed: list[_packing.Packed] = []
    labels: list[np.ndarray] = []
    for columns, some in self.source.parts(self.split):
      self.source.check(self.split, some)
      first, *rest = [tokenizer.encode(column) for column in columns]
      second = rest[0] if rest else None
      packed.append(
        _packing.pack(first, second, self.length, tokenizer.special)
      )
      labels.append(some)
    tokens, ends = (np.concatenate(part) for part in zip(*packed, strict=True))
    return _packing.Packed(tokens, ends), np.concatenate(labels)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
  """The encoded split; a pickle carries it, and no tokenizer."""

  examples: _lazy.Lazy[tuple[_packing.Packed, np.ndarray]]

  def __call__(
    self, indices: np.ndarray, draws: np.ndarray | None
  ) -> _base.Batch:
    del draws
    packed, labels = self.examples.get()
    return {**packed.rows(indices).features(), "label": labels[indices]}
