"""Figures of predictions, as sums over examples, and what follows from them.

A metric is a mean over examples. Matthews' correlation, F1 and Pearson's
correlation are none, but follow from means: of the entries of a table of
confusion, and of moments. The loop adds the sums up over batches and devices,
and `summary` turns the means of all of them into these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jbin.tasks import _base

_CONFUSION = ("true_positive", "false_positive", "false_negative")
_MOMENTS = ("output", "label", "output_squared", "label_squared", "product")


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
    )
    for name, entry in zip(_CONFUSION, entries, strict=True):
      found[name] = _base.total(entry, weight)
  return found


def _moments(
  logits: jax.Array, labels: jax.Array, weight: jax.Array
) -> _base.Metrics:
  x, y = _base.answers(logits, labels), labels.astype(jnp.float32)
  parts = (x, y, x * x, y * y, x * y)
  return {
    name: _base.total(part, weight)
    for name, part in zip(_MOMENTS, parts, strict=True)
  }


def summary(means: Mapping[str, float]) -> dict[str, float]:
  """The means of metrics, with what follows from them in place of its parts.

  The entries of a table of confusion become "f1", of class 1, and "matthews":
  Matthews' correlation; moments become "pearson". Each is 0 where it is 0 / 0.
  Spearman's correlation is of ranks, which no sums over examples give.
  """
  left = {
    name: value
    for name, value in means.items()
    if name not in (*_CONFUSION, *_MOMENTS)
  }
  if all(name in means for name in _CONFUSION):
    tp, fp, fn = (means[name] for name in _CONFUSION)
    tn = max(1.0 - tp - fp - fn, 0.0)
    left["f1"] = _ratio(2 * tp, 2 * tp + fp + fn)
    sides = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    left["matthews"] = _ratio(tp * tn - fp * fn, math.sqrt(sides))
  if all(name in means for name in _MOMENTS):
    x, y, xx, yy, xy = (means[name] for name in _MOMENTS)
    spread = max(xx - x * x, 0.0) * max(yy - y * y, 0.0)
    left["pearson"] = _ratio(xy - x * y, math.sqrt(spread))
  return left


def _ratio(above: float, below: float) -> float:
  return above / below if below > 0 else 0.0
