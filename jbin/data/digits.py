"""The real handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from jbin.data import _augment, _base, _random

NUM_CLASSES = 10
# Of the training pixels, which are 0 to 16.
MEAN = (4.882,)
STD = (6.019,)
_SPLIT_SEED = 0
_HELD_OUT = 5


@_base.REGISTRY.register
def digits(augment: bool = False) -> _base.Dataset:
  """1,797 scanned digits of 8x8 pixels, embedded in scikit-learn.

  A fixed fifth of each class is the evaluation split (359 scans, 1,438 for
  training): within a class, scans are ordered by a hash of their index under
  seed 0, and the first fifth, rounded to the nearest, is held out. It depends
  on no library's random generator. Images are (8, 8, 1): (pixel - mean) / std
  with the training split's figures.

  Args:
    augment: shift each training image by -1, 0 or 1 pixel along both axes;
      what comes in is background.
  """
  images, labels, held_out = _load()
  train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
  return _base.images(
    name="digits",
    num_classes=NUM_CLASSES,
    image_shape=(8, 8, 1),
    num_train=len(train),
    num_eval=len(test),
    read_train=_Scans(images[train], labels[train]),
    read_eval=_Scans(images[test], labels[test]),
    draws=2 if augment else 0,
  )


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images (n, 8, 8, 1) uint8, labels (n,) int32, held out (n,) bool."""
  from sklearn import datasets

  pixels, target = datasets.load_digits(return_X_y=True)
  images = np.asarray(pixels).astype(np.uint8).reshape(-1, 8, 8, 1)
  labels = np.asarray(target).astype(np.int32)
  hashes = _random.hash64(_SPLIT_SEED, np.arange(len(labels)))
  held_out = np.zeros(len(labels), bool)
  for label in range(NUM_CLASSES):
    members = np.flatnonzero(labels == label)
    members = members[np.argsort(hashes[members])]
    held_out[members[: round(len(members) / _HELD_OUT)]] = True
  return images, labels, held_out


@dataclasses.dataclass(frozen=True, eq=False)
class _Scans:
  images: np.ndarray
  labels: np.ndarray

  def __call__(
    self, indices: np.ndarray, draws: np.ndarray | None
  ) -> _base.Batch:
    images = self.images[indices]
    if draws is not None:
      images = _augment.shift(images, draws, pad=1)
    images = _augment.normalize(images, MEAN, STD)
    return {"image": images, "label": self.labels[indices]}
