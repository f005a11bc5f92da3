"""Correlations and F1 from sums over batches."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, tasks
from jbin.train import metrics


def _means(task, logits, labels, parts=3):
  """Of batches of unlike sizes, as the loop adds them up; the last padded."""
  batches = []
  edges = np.linspace(0, len(labels), parts + 1).astype(int)
  for i, j in itertools.pairwise(edges):
    batch = {"image": logits[i:j], "label": labels[i:j]}
    if j == len(labels):
      batch = {k: np.concatenate([x, x[:2]]) for k, x in batch.items()}
      batch["mask"] = np.arange(len(batch["label"])) < j - i
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    _, found = task.loss(lambda x: x, batch)
    batches.append(found)
  return metrics.means(tasks.merge(batches))


@pytest.mark.parametrize("positive", [0.5, 0.9])
def test_matthews_and_f1_of_two_classes(positive):
  rng = np.random.default_rng(1)
  labels = (rng.random(50) < positive).astype(np.int32)
  logits = rng.normal(size=(50, 2)).astype(np.float32)
  logits[:, 1] += labels
  found = _means(tasks.classification(), logits, labels)
  said = logits.argmax(1)
  want = np.corrcoef(said, labels)[0, 1]
  np.testing.assert_allclose(found["matthews"], want, rtol=1e-5)
  hits = (said & labels).sum()
  f1 = 2 * hits / (said.sum() + labels.sum())
  np.testing.assert_allclose(found["f1"], f1, rtol=1e-5)
  assert set(found) == {"loss", "accuracy", "f1", "matthews"}


@pytest.mark.parametrize(("center", "spread"), [(0.0, 1.0), (2.7, 3e-4)])
def test_pearson_of_a_regression(center, spread):
  """Of a net, too, whose answers hardly vary: squares in float32 would not."""
  rng = np.random.default_rng(0)
  labels = rng.uniform(0, 5, 60).astype(np.float32)
  noisy = labels + rng.normal(size=60)
  logits = (center + spread * noisy).astype(np.float32)[:, None]
  found = _means(tasks.classification(), logits, labels)
  want = np.corrcoef(logits[:, 0], labels)[0, 1]
  np.testing.assert_allclose(found["pearson"], want, rtol=1e-4)
  loss = np.square(logits[:, 0] - labels).mean()
  np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
  assert list(found) == ["loss", "pearson"]


def test_what_is_nought_by_nought_is_nought():
  same = np.zeros(4, np.int32)
  found = _means(tasks.classification(), np.eye(2)[same], same, 2)
  assert found["f1"] == found["matthews"] == 0.0
  scores = np.eye(2)[np.zeros(60, int)]
  found = _means(tasks.classification(), scores, np.arange(60) % 7 // 6)
  assert found["matthews"] == 0.0
  found = _means(tasks.classification(), np.ones((4, 1)), np.ones(4), 2)
  assert found["pearson"] == 0.0
  assert tasks.summary({"loss": 1.0, "true_positive": 0.5}) == {"loss": 1.0}


def test_a_regression_has_one_logit_and_no_smoothing():
  batch = {"image": jnp.ones((4, 3)), "label": jnp.ones(4)}
  with pytest.raises(errors.UserError, match="num_classes=1"):
    tasks.classification().loss(lambda x: x, batch)
  with pytest.raises(errors.UserError, match="labels are numbers; set it to 0"):
    tasks.classification(0.1).loss(lambda x: x[:, :1], batch)
