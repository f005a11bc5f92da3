"""How probable continuations are: what multiple choice is decided by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flax import nnx

from jbin import errors
from jbin.lm import _scores


def loglikelihoods(
  model: nnx.Module,
  contexts: Sequence[Sequence[int]],
  continuations: Sequence[Sequence[int]],
  *,
  length: int | None = None,
  batch_size: int = 8,
) -> list[tuple[float, bool]]:
  """Of each continuation the sum of log p, and whether it is greedy.

  log p(continuation | context) = sum_i log p(t_i | context, t_1 ... t_i-1);
  greedy means that each t_i is the most probable token, the first of equals.
  An empty continuation has 0, and is greedy.

  Texts are read batch_size at a time, the longest first, padded on the right
  to a power of two: a program is compiled for each power that occurs.

  Args:
    model: a language model (`models.mamba2`, ...); is run as for evaluation.
    contexts: ids of one token at least: an empty text is what a tokenizer's
      first token (<s>) alone stands for.
    continuations: ids, for each context.
    length: tokens that the model reads at most; contexts lose their first
      tokens for it. None: `model.max_length`, or no limit.
    batch_size: texts that the model reads side by side.

  Raises:
    errors.UserError: if a context is empty, there are more of one than of the
      other, a continuation is longer than `length`, or a token is none of the
      model's.
    FloatingPointError: if a probability is NaN.
  """
  if len(contexts) != len(continuations):
    raise errors.UserError(
      f"there are {len(contexts)} contexts and {len(continuations)}"
      " continuations; give as many"
    )
  if batch_size < 1:
    raise errors.UserError(f"batch_size is {batch_size}; it must be 1 or more")
  if length is None:
    length = getattr(model, "max_length", None)
  pairs = [
    _pair(i, one, two, length)
    for i, (one, two) in enumerate(zip(contexts, continuations, strict=True))
  ]
  found = [(0.0, True)] * len(pairs)
  sizes: dict[int, list[int]] = {}
  order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]))
  for i in order:
    tokens, targets = pairs[i]
    if (np.asarray(targets) >= 0).any():
      sizes.setdefault(_scores.bucket(len(tokens), length), []).append(i)
  for size, places in sizes.items():
    rows = (_scores.row(*pairs[i], size) for i in places)
    batches = _scores.scored(model, _scores.batched(rows, batch_size))
    sums, hits = map(np.concatenate, zip(*batches, strict=True))
    # Behind these stand the copies that fill the last batch up.
    for i, total, hit in zip(
      places, sums.tolist(), hits.tolist(), strict=False
    ):
      found[i] = (total, hit)
  return found


def _pair(
  i: int,
  context: Sequence[int],
  continuation: Sequence[int],
  length: int | None,
) -> tuple[list[int], list[int]]:
  """Tokens, and as many targets, of one text.

  Raises:
    errors.UserError: if it has no context, or is too long without one.
  """
  one = _scores.ids(context, f"context {i}").tolist()
  two = _scores.ids(continuation, f"continuation {i}").tolist()
  if not one:
    raise errors.UserError(
      f"context {i} is empty, and a model cannot begin with nothing; give it a"
      " first token, such as the tokenizer's <s>"
    )
  if length is not None and len(two) > length:
    raise errors.UserError(
      f"continuation {i} has {len(two)} tokens, and the model reads {length};"
      " make it with a larger max_length, or give less"
    )
  whole = one + two
  targets = [-1] * (len(one) - 1) + two
  start = 0 if length is None else max(0, len(targets) - length)
  return whole[start : len(targets)], targets[start:]
