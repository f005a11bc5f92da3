"""Figures of predictions, as sums over examples, and what follows from them.

A metric is a mean over examples. Matthews' correlation, F1 and Pearson's
correlation are none, but follow from means: of the entries of a table of
confusion, and of moments about the means. `merge` adds up what batches give,
and `summary` turns the means of all of them into these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jbin.tasks import _base

_CONFUSION = (
  "true_positive",
  "false_positive",
  "false_negative",
  "true_negative",
)
# Means, then sums of squares and products about the means of the batch.
_MEANS = ("output", "label")
_ABOUT = {
  "output_variance": (0, 0),
  "label_variance": (1, 1),
  "covariance": (0, 1),
}


def of(
  logits: jax.Array, labels: jax.Array, weight: jax.Array
) -> _base.Metrics:
  """What is measured of a model's answers.

  Args:
    logits: (b, classes); for a regression (b,) or (b, 1).
    labels: (b,) int32; floating for a regression.
    weight: (b,), 0 for the examples that do not count.

  Returns:
    "accuracy", with more than 5 classes "top5_accuracy", with 2 the entries
    of a table of confusion; of a regression the moments.
  """
  if _base.is_regression(labels):
    return _moments(logits, labels, weight)
  hits = jnp.argmax(logits, axis=-1) == labels
  found = {"accuracy": _base.total(hits, weight)}
  classes = logits.shape[-1]
  if classes > 5:
    _, best = jax.lax.top_k(logits.astype(jnp.float32), 5)
    inside = jnp.any(best == labels[:, None], axis=-1)
    found["top5_accuracy"] = _base.total(inside, weight)
  if classes == 2:
    entries = (
      hits & (labels == 1),
      ~hits & (labels == 0),
      ~hits & (labels == 1),
      hits & (labels == 0),
    )
    for name, entry in zip(_CONFUSION, entries, strict=True):
      found[name] = _base.total(entry, weight)
  return found


def _moments(
  logits: jax.Array, labels: jax.Array, weight: jax.Array
) -> _base.Metrics:
  values = _base.answers(logits, labels), labels.astype(jnp.float32)
  found = {
    name: _base.total(value, weight)
    for name, value in zip(_MEANS, values, strict=True)
  }
  # A net whose answers hardly vary has squares that differ by roundings alone.
  about = [value - _base.mean(value, weight) for value in values]
  for name, (one, other) in _ABOUT.items():
    found[name] = _base.total(about[one] * about[other], weight)
  return found


def merge(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """(sum, count) of each metric over all batches, added up in float64.

  To moments about the mean of each batch come those of the batches' means
  about the mean of all.

  Args:
    batches: metrics of each batch, on the host.
  """
  sums: dict[str, tuple[float, float]] = {}
  for found in batches:
    for name, (total, count) in found.items():
      before = sums.get(name, (0.0, 0.0))
      sums[name] = (before[0] + float(total), before[1] + float(count))
  if not all(name in sums for name in (*_MEANS, *_ABOUT)):
    return sums
  means = [sums[name][0] / max(sums[name][1], 1.0) for name in _MEANS]
  for found in batches:
    count = float(found[_MEANS[0]][1])
    off = [
      float(found[name][0]) / max(count, 1.0) - mean
      for name, mean in zip(_MEANS, means, strict=True)
    ]
    for name, (one, other) in _ABOUT.items():
      total, counts = sums[name]
      sums[name] = (total + count * off[one] * off[other], counts)
  return sums


def summary(means: Mapping[str, float]) -> dict[str, float]:
  """The means of metrics, with what follows from them in place of its parts.

  The entries of a table of confusion become "f1", of class 1, and "matthews":
  Matthews' correlation; moments become "pearson" (of sums that were not made by
  `merge`, that of the examples about the means of their batches). Each is 0
  where it is 0 / 0.
  Spearman's correlation is of ranks, which no sums over examples give.
  """
  left = {
    name: value
    for name, value in means.items()
    if name not in (*_CONFUSION, *_MEANS, *_ABOUT)
  }
  if all(name in means for name in _CONFUSION):
    tp, fp, fn, tn = (means[name] for name in _CONFUSION)
    left["f1"] = _ratio(2 * tp, 2 * tp + fp + fn)
    sides = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    left["matthews"] = _ratio(tp * tn - fp * fn, math.sqrt(sides))
  if all(name in means for name in _ABOUT):
    xx, yy, xy = (means[name] for name in _ABOUT)
    left["pearson"] = max(-1.0, min(_ratio(xy, math.sqrt(xx * yy)), 1.0))
  return left


def _ratio(above: float, below: float) -> float:
  return above / below if below > 0 else 0.0
