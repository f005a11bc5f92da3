"""Cross entropy, smoothing, masks, accuracies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbin import errors, tasks


def _batch(classes=10, mask=None):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(6, classes)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, classes, 6), jnp.int32)
  batch = {"image": logits, "label": labels}
  if mask is not None:
    batch["mask"] = jnp.asarray(mask, jnp.float32)
  return batch


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_optax(smoothing):
  batch = _batch()
  loss, metrics = tasks.classification(smoothing).loss(lambda x: x, batch)
  target = optax.smooth_labels(jax.nn.one_hot(batch["label"], 10), smoothing)
  want = optax.softmax_cross_entropy(batch["image"], target).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  total, count = metrics["loss"]
  np.testing.assert_allclose(total / count, want, rtol=1e-6)
  assert float(count) == 6


def test_the_mask_counts_the_real_ones_only():
  whole = _batch()
  half = {key: value[:3] for key, value in whole.items()}
  masked = {**whole, "mask": jnp.asarray([1, 1, 1, 0, 0, 0], jnp.float32)}
  task = tasks.classification()
  loss, metrics = task.loss(lambda x: x, masked)
  want, wanted = task.loss(lambda x: x, half)
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  for name, pair in metrics.items():
    np.testing.assert_allclose(pair, wanted[name], rtol=1e-6)


def test_a_batch_of_padding_is_zero_and_not_nan():
  loss, metrics = tasks.classification().loss(
    lambda x: x, _batch(mask=np.zeros(6))
  )
  assert float(loss) == 0.0
  assert float(metrics["accuracy"][1]) == 0.0


def test_top5_only_where_it_says_something():
  batch = _batch(classes=5)
  _, metrics = tasks.classification().loss(lambda x: x, batch)
  assert set(metrics) == {"loss", "accuracy"}
  batch = _batch(classes=6)
  _, metrics = tasks.classification().loss(lambda x: x, batch)
  order = np.argsort(-np.asarray(batch["image"]), axis=1)
  labels = np.asarray(batch["label"])[:, None]
  assert float(metrics["accuracy"][0]) == (order[:, :1] == labels).sum()
  assert float(metrics["top5_accuracy"][0]) == (order[:, :5] == labels).sum()


def test_logits_of_half_precision_are_lost_in_float32():
  loss, _ = tasks.classification().loss(
    lambda x: x.astype(jnp.bfloat16), _batch()
  )
  assert loss.dtype == jnp.float32


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range(smoothing):
  with pytest.raises(errors.UserError, match="from 0 to below 1"):
    tasks.classification(smoothing)
