import numpy as np
import pytest

import jbin.data
from jbin import errors


def accuracy(data):
  """Of the nearest mean: a linear classifier."""
  images, labels = data.read_train(np.arange(data.num_train), None).values()
  flat = images.reshape(len(images), -1)
  classes = range(data.num_classes)
  means = np.stack([flat[labels == label].mean(0) for label in classes])
  batch = next(iter(data.eval(data.num_eval)))
  tests = batch["image"].reshape(data.num_eval, -1)
  scores = tests @ means.T - 0.5 * (means**2).sum(1)
  return np.mean(scores.argmax(1) == batch["label"])


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (5, 9, 2)])
def test_a_linear_classifier_learns_it(shape):
  data = jbin.data.synthetic(shape, num_train=2000, num_eval=500)
  assert accuracy(data) > 0.95


def test_noise_makes_it_harder():
  easy = jbin.data.synthetic((8, 8, 1), num_train=500, noise=0.0)
  hard = jbin.data.synthetic((8, 8, 1), num_train=500, noise=8.0)
  assert accuracy(easy) == 1
  assert accuracy(hard) < 0.8


def test_labels_are_uniform_and_splits_differ():
  data = jbin.data.synthetic(num_classes=5)
  images, labels = data.read_train(np.arange(1000), None).values()
  assert np.bincount(labels).min() > 150
  others = data.read_eval(np.arange(1000), None)["image"]
  assert not np.array_equal(images, others)
  again = jbin.data.synthetic(num_classes=5).read_train(np.arange(9), None)[
    "image"
  ]
  np.testing.assert_array_equal(images[:9], again)
  other = jbin.data.synthetic(num_classes=5, seed=1).read_train(
    np.arange(9), None
  )["image"]
  assert not np.array_equal(images[:9], other)


def test_wrong_arguments():
  with pytest.raises(errors.UserError, match="height, width, channels"):
    jbin.data.synthetic((32, 32))
  with pytest.raises(errors.UserError, match="num_classes"):
    jbin.data.synthetic(num_classes=1)
  with pytest.raises(errors.UserError, match="num_eval"):
    jbin.data.synthetic(num_eval=0)
