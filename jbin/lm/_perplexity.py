"""Perplexity of a long text, by protocols that have names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from flax import nnx

from jbin import errors
from jbin.lm import _scores


@dataclasses.dataclass(frozen=True)
class Perplexity:
  """What `perplexity` measures.

  Attributes:
    perplexity: exp(nats / predictions).
    nats: the sum of -log p over all predictions.
    predictions: how many tokens were predicted.
    windows: in how many windows.
    bits_per_byte: nats / log 2 / bytes of the predicted text; None: not known.
  """

  perplexity: float
  nats: float
  predictions: int
  windows: int
  bits_per_byte: float | None = None


def perplexity(
  model: nnx.Module,
  tokens: Sequence[int] | np.ndarray,
  *,
  length: int = 2048,
  stride: int | None = None,
  bos: int | None = None,
  batch_size: int = 1,
  text_bytes: float | None = None,
) -> Perplexity:
  """Perplexity of a language model on one line of tokens.

  The protocols, for n tokens:

  *Disjoint windows* (`stride=None`): floor(n / length) windows that do not
  overlap; what is left behind the last is dropped. Of each window all tokens
  but the first are predicted, from those before them in it. The result is the
  exponential of the mean of the windows' means. Papers on quantized models
  (GPTQ, OPT, LLaMA, Bi-Mamba) report this, with length 2048, on the text of a
  whole split that was encoded at once: WikiText-2's raw test lines joined by
  two line feeds, with the token that the tokenizer puts in front, if any, once
  at the start.

  *Sliding windows* (`stride` below `length`): window k begins at token
  k * stride; of it the tokens are predicted that no window before has
  predicted, which are its last `stride`, of the first window all but the first
  token. The last window ends with the text, and may be shorter. Each token has
  at least length - stride tokens before it, those of the first window less.

  *With a first token* (`bos`): it stands before each window, takes the place of
  its last token among the inputs, and the window's first token is predicted as
  well. Then `stride` may be as large as `length`: every token of the text is
  predicted once.

  A model reads `length` tokens at once, whatever the protocol.

  Args:
    model: a language model (`models.mamba2`, ...); is run as for evaluation.
    tokens: (n,) ids of the whole text.
    length: tokens of a window; 2 or more, with `bos` 1 or more.
    stride: how far a window is from the next one; None: `length`.
    bos: the id that stands before each window; None: none.
    batch_size: windows that the model reads side by side.
    text_bytes: bytes of UTF-8 of the text, for bits per byte: they count by the
      share of the tokens that are predicted.

  Raises:
    errors.UserError: if numbers are out of range, the text is shorter than a
      window, or a token is none of the model's.
    FloatingPointError: if a probability is NaN.

  Reference: Frantar et al., 2022 (arXiv 2210.17323).
  """
  line = _scores.ids(tokens, "the text")
  _check(line, length, stride, bos, batch_size)
  if text_bytes is not None and not text_bytes > 0:
    raise errors.UserError(
      f"text_bytes is {text_bytes}; a text has 1 or more, or leave it out"
    )
  spans = _spans(len(line), length, stride, bos is not None)
  windows = (_window(line, span, length, bos) for span in spans)
  sums = _scores.scored(model, _scores.batched(windows, batch_size))
  total = np.concatenate([part for part, _ in sums])[: len(spans)]
  nats = -math.fsum(total.tolist())
  count = sum(stop - first for _, first, stop in spans)
  bits = None
  if text_bytes is not None:
    bits = nats / math.log(2) / (text_bytes * count / len(line))
  return Perplexity(_exp(nats / count), nats, count, len(spans), bits)


def _exp(x: float) -> float:
  """The exponential, inf where that is too large."""
  try:
    return math.exp(x)
  except OverflowError:
    return math.inf


def _check(
  line: np.ndarray,
  length: int,
  stride: int | None,
  bos: int | None,
  batch_size: int,
) -> None:
  """Raises for arguments that make no windows.

  Raises:
    errors.UserError: with the rule.
  """
  least = 2 if bos is None else 1
  most = length - 1 if bos is None else length
  if line.ndim != 1:
    raise errors.UserError(
      f"tokens have shape {line.shape}; perplexity takes one line of them, (n,)"
    )
  if length < least:
    raise errors.UserError(f"length is {length}; it must be {least} or more")
  if stride is not None and not 1 <= stride <= most:
    raise errors.UserError(
      f"stride is {stride}; with windows of {length} tokens it must be from 1"
      f" to {most}, or None for windows that do not overlap"
    )
  if batch_size < 1:
    raise errors.UserError(f"batch_size is {batch_size}; it must be 1 or more")
  needed = length if stride is None else least
  if len(line) < needed:
    raise errors.UserError(
      f"there are {len(line)} tokens, and {needed} at least are needed; give"
      " more text, or set length to less"
    )


def _spans(
  size: int, length: int, stride: int | None, begun: bool
) -> list[tuple[int, int, int]]:
  """(where a window begins, first token that it predicts, where it ends)."""
  skip = 0 if begun else 1
  if stride is None:
    starts = range(0, size - length + 1, length)
    return [(at, at + skip, at + length) for at in starts]
  spans, done = [], skip
  for at in range(0, size, stride):
    stop = min(at + length, size)
    spans.append((at, done, stop))
    if stop == size:
      break
    done = stop
  return spans


def _window(
  line: np.ndarray, span: tuple[int, int, int], length: int, bos: int | None
) -> _scores.Rows:
  """One row: inputs from where the window begins, targets one behind."""
  at, first, stop = span
  text = line[at:stop]
  places = np.arange(at, stop)
  asked = np.where(places >= first, text, -1)
  if bos is None:
    tokens, targets = text, np.append(asked[1:], -1)
  else:
    tokens, targets = np.append(bos, text[:-1]), asked
  return _scores.row(tokens, targets, length)
