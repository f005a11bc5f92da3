"""Learns a WordPiece vocabulary, the same one from the same words."""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jbin import errors

# What each kind of special token is called, in vocabularies of BERT's family,
# of RoBERTa's, and of language models: what begins and what ends a text are
# "cls" and "sep". A learned vocabulary begins with the first of each.
SPECIAL = {
  "pad": ("[PAD]", "<pad>"),
  "unk": ("[UNK]", "<unk>"),
  "cls": ("[CLS]", "<s>", "<|begin_of_text|>", "<bos>"),
  "sep": ("[SEP]", "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"),
  "mask": ("[MASK]", "<mask>"),
}
CACHE = "JBIN_CACHE"
"""The environment variable of a folder that keeps learned vocabularies."""

INSIDE = "##"  # before a piece that does not begin a word
_ALPHABET = 1000
_REPEATED = 100_000


def lines(path: pathlib.Path) -> tuple[str, ...]:
  """The pieces of a vocab.txt."""
  # Not splitlines: other separators than a line feed are pieces.
  return tuple(path.read_text("utf-8").removesuffix("\n").split("\n"))


def parts(lowercase: bool) -> tuple[Any, Any]:
  """BERT's normalizer and what cuts a text into words and punctuation."""
  from tokenizers import normalizers, pre_tokenizers

  return (
    normalizers.BertNormalizer(lowercase=lowercase),
    pre_tokenizers.BertPreTokenizer(),
  )


def decoder() -> Any:
  """What joins pieces to a text, words and punctuation with spaces between."""
  from tokenizers import decoders

  return decoders.WordPiece(prefix=INSIDE, cleanup=False)


def words_of(texts: Iterable[str]) -> collections.Counter[str]:
  """How often each word, or punctuation mark, is there."""
  normalizer, splitter = parts(lowercase=True)
  words: collections.Counter[str] = collections.Counter()
  for text in texts:
    pieces = splitter.pre_tokenize_str(normalizer.normalize_str(text))
    words.update(word for word, _ in pieces)
  return words


@functools.lru_cache(maxsize=8)
def learned(
  words: tuple[tuple[str, int], ...], vocab_size: int
) -> tuple[str, ...]:
  """The pieces of a vocabulary, kept by content."""
  folder = os.environ.get(CACHE)
  if not folder:
    return _learn(dict(words), vocab_size)
  content = json.dumps([words, vocab_size]).encode()
  key = hashlib.sha256(content).hexdigest()[:16]
  path = pathlib.Path(folder).expanduser() / f"wordpiece-{key}" / "vocab.txt"
  if path.is_file():
    return lines(path)
  pieces = _learn(dict(words), vocab_size)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Whole or not at all, also if two processes write it.
  part = path.with_suffix(f".{os.getpid()}")
  part.write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
  part.replace(path)
  return pieces


def _learn(words: Mapping[str, int], vocab_size: int) -> tuple[str, ...]:
  import tokenizers
  from tokenizers import models, pre_tokenizers, trainers

  counts: collections.Counter[str] = collections.Counter()
  for word, times in words.items():
    for character in word:
      counts[character] += times
  order = sorted(counts, key=lambda c: (-counts[c], c))
  kept = set(order[:_ALPHABET])
  words = {word: n for word, n in words.items() if kept.issuperset(word)}
  inside = sorted({INSIDE + c for word in words for c in word[1:]})
  special = [names[0] for names in SPECIAL.values()]
  needed = len(special) + len({c for word in words for c in word}) + len(inside)
  if needed > vocab_size:
    raise errors.UserError(
      f"vocab_size is {vocab_size}, and the special tokens and the characters"
      f" of the text alone are {needed}; set vocab_size to more than that"
    )
  # The trainer numbers characters inside words in the order of a hash table,
  # which differs between runs, and breaks ties by number. What it is told to
  # start with it numbers as told.
  trainer = trainers.WordPieceTrainer(
    vocab_size=vocab_size,
    min_frequency=2,
    special_tokens=special + inside,
    continuing_subword_prefix=INSIDE,
    show_progress=False,
  )
  learner = tokenizers.Tokenizer(models.WordPiece(unk_token=special[1]))
  learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  learner.train_from_iterator(
    (
      " ".join([word] * min(_REPEATED, times - start))
      for word, times in words.items()
      for start in range(0, times, _REPEATED)
    ),
    trainer,
  )
  ids = learner.get_vocab()
  return tuple(sorted(ids, key=ids.__getitem__))
