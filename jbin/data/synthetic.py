"""Made-up images that a net can learn: for benchmarks and tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jbin import errors
from jbin.data import _base, _random

_BLOCKS = 8


@_base.REGISTRY.register
def synthetic(
  image_shape: Sequence[int] = (32, 32, 3),
  num_classes: int = 10,
  num_train: int = 4096,
  num_eval: int = 1024,
  noise: float = 1.0,
  seed: int = 0,
) -> _base.Dataset:
  """Random images with learnable labels, of any shape; nothing is read.

  image = pattern[label] + noise * n: a fixed pattern of at most 8x8 blocks per
  class, whose channels are normal numbers, and normal n. So the label, which
  is uniform, is the nearest pattern: a linear classifier can learn it. Example
  i depends on (seed, i) alone; evaluation examples come after training ones.

  Args:
    image_shape: (H, W, C).
    num_classes: at least 2.
    num_train: examples in the training split.
    num_eval: examples in the evaluation split.
    noise: standard deviation per pixel; that of the pattern is 1.
    seed: of patterns, labels and noise.

  Raises:
    errors.UserError: if a shape or a number is out of range.
  """
  shape = tuple(int(size) for size in image_shape)
  if len(shape) != 3 or min(shape) < 1:
    raise errors.UserError(
      f"image_shape is {shape}; it must be (height, width, channels), each 1"
      " or more"
    )
  for name, number, least in (
    ("num_classes", num_classes, 2),
    ("num_train", num_train, 1),
    ("num_eval", num_eval, 1),
  ):
    if number < least:
      raise errors.UserError(
        f"{name} of synthetic data is {number}; it must be {least} or more"
      )
  height, width, channels = shape
  blocks = (min(height, _BLOCKS), min(width, _BLOCKS), channels)
  pixels = height * width * channels
  generator = np.random.default_rng(seed % 2**64)
  patterns = generator.standard_normal((num_classes, *blocks), np.float32)
  teacher = _Teacher(
    # Wide already, so that an image is made of copies of whole rows.
    patterns=patterns[:, :, np.arange(width) * blocks[1] // width],
    # An example's noise is a window of this: fresh normal numbers for large
    # images would cost more than the training step that they feed.
    pool=generator.standard_normal(2 * pixels + 1024, np.float32)
    * np.float32(noise),
    shape=shape,
    seed=seed,
  )
  return _base.images(
    name="synthetic",
    num_classes=num_classes,
    image_shape=shape,
    num_train=num_train,
    num_eval=num_eval,
    read_train=teacher,
    read_eval=dataclasses.replace(teacher, first=num_train),
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Teacher:
  patterns: np.ndarray
  pool: np.ndarray
  shape: tuple[int, int, int]
  seed: int
  first: int = 0

  def __call__(
    self, indices: np.ndarray, draws: np.ndarray | None
  ) -> _base.Batch:
    del draws
    height, width, channels = self.shape
    classes, rows = self.patterns.shape[:2]
    chance = _random.uniforms(self.seed, indices + self.first, 2)
    labels = (chance[:, 0] * classes).astype(np.int32)
    taken = np.arange(height) * rows // height
    images = self.patterns[labels[:, None], taken[None, :]]
    pixels = height * width * channels
    starts = (chance[:, 1] * (len(self.pool) - pixels)).astype(np.int64)
    for image, start in zip(images, starts, strict=True):
      image += self.pool[start : start + pixels].reshape(self.shape)
    return {"image": images, "label": labels}
