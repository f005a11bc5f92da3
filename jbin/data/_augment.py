"""Augmentation as pure functions of images and random numbers.

Images are uint8 (n, H, W, C), draws are float64 (n, k) in [0, 1), boxes are
float64 (n, 4): left, top, right, bottom in pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

# In the units of a pixel, 0 to 255.
CIFAR_MEAN = (0.4914 * 255, 0.4822 * 255, 0.4465 * 255)
CIFAR_STD = (0.2470 * 255, 0.2435 * 255, 0.2616 * 255)
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10
# Each attempt takes an area and an aspect; then left and top.
CROP_DRAWS = 2 * ATTEMPTS + 2
CENTRE = 224 / 256


def normalize(
  images: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
  """(image - mean) / std per channel: float32 (n, H, W, C).

  Args:
    images: uint8 (n, H, W, C).
    mean: one number, or C of them, in the units of a pixel.
    std: likewise.
  """
  n, height, width, channels = images.shape
  scale = np.broadcast_to(1 / np.asarray(std, np.float32), (channels,))
  shift = np.broadcast_to(np.asarray(mean, np.float32), (channels,)) * -scale
  # Rows of whole images with the channel constants written out run several
  # times faster than broadcasting over a last axis of 3.
  flat = images.reshape(n, height * width * channels).astype(np.float32)
  flat *= np.tile(scale, height * width)
  flat += np.tile(shift, height * width)
  return flat.reshape(images.shape)


def shift(
  images: np.ndarray, draws: np.ndarray, *, pad: int, flip: bool = False
) -> np.ndarray:
  """Pads with zeros and crops at random to the old size, mirrored or not.

  Args:
    images: (n, H, W, C).
    draws: (n, 2): how far down and right the crop lies, uniform from 0 to
      2 * pad; with `flip` (n, 3): the last mirrors the image if below 1/2.
    pad: pixels on each side.
    flip: mirror half of the images left to right.
  """
  n, height, width, channels = images.shape
  size = (n, height + 2 * pad, width + 2 * pad, channels)
  padded = np.zeros(size, images.dtype)
  padded[:, pad : pad + height, pad : pad + width] = images
  offsets = (draws[:, :2] * (2 * pad + 1)).astype(np.int64)
  result = np.empty_like(images)
  # Copying n windows is faster than one gather by index arrays.
  for i, (top, left) in enumerate(offsets.tolist()):
    result[i] = padded[i, top : top + height, left : left + width]
  return mirror(result, draws[:, 2]) if flip else result


def mirror(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Mirrors, in place, each image whose draw is below 1/2; draws are (n,)."""
  for i in np.flatnonzero(draws < 0.5).tolist():
    images[i] = images[i, :, ::-1].copy()
  return images


def inception_boxes(sizes: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Inception's random crops: boxes (n, 4).

  Up to 10 attempts: an area uniform in 0.08 to 1 of the image's, an aspect
  (width / height) log-uniform in 3/4 to 4/3; the first that fits is placed
  uniformly. If none fits: the centre crop of evaluation. Boxes have whole
  pixels, so area and aspect are met up to rounding.

  Args:
    sizes: (n, 2), width and height in pixels.
    draws: (n, CROP_DRAWS).
  """
  width, height = sizes[:, :1].astype(float), sizes[:, 1:].astype(float)
  chance = draws[:, : 2 * ATTEMPTS].reshape(-1, ATTEMPTS, 2)
  area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * chance[..., 0])
  low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
  aspect = np.exp(low + (high - low) * chance[..., 1])
  w, h = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
  fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
  # argmax: the first attempt that fits, or 0 if none does.
  first = np.argmax(fits, axis=1)[:, None]
  w, h = np.take_along_axis(w, first, 1), np.take_along_axis(h, first, 1)
  at = draws[:, 2 * ATTEMPTS : CROP_DRAWS]
  left = np.floor(at[:, :1] * (width - w + 1))
  top = np.floor(at[:, 1:] * (height - h + 1))
  boxes = np.concatenate([left, top, left + w, top + h], axis=1)
  found = np.any(fits, axis=1, keepdims=True)
  return np.where(found, boxes, centre_boxes(sizes))


def centre_boxes(sizes: np.ndarray) -> np.ndarray:
  """Square centre crops of 224/256 of the short side: boxes (n, 4).

  Args:
    sizes: (n, 2), width and height in pixels.
  """
  side = np.maximum(np.round(sizes.min(axis=1, keepdims=True) * CENTRE), 1)
  corner = np.floor((sizes - side) / 2)
  return np.concatenate([corner, corner + side], axis=1)


def _cifar(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
  # 4 pixels of 32, and in proportion if the images were resized.
  pad = max(1, round(images.shape[1] / 8))
  return shift(images, draws, pad=pad, flip=True)


def _inception(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
  return mirror(images, draws[:, CROP_DRAWS])


@dataclasses.dataclass(frozen=True)
class Preset:
  """What happens to an image between its file and the net.

  Attributes:
    mean: of a pixel (0 to 255): one number, or one per channel.
    std: likewise.
    draws: random numbers that a training example takes.
    crop: (sizes, draws) -> the box to cut while decoding for training, or
      None: the whole image.
    eval_crop: sizes -> box, for evaluation.
    change: (images, draws) -> images, on batches of training images.
    size: side of the images if the caller names none; 0 is the data's own.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  draws: int = 0
  crop: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
  eval_crop: Callable[[np.ndarray], np.ndarray] | None = None
  change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
  size: int = 0


PRESETS = {
  "none": Preset(mean=(127.5,), std=(127.5,)),
  "cifar": Preset(CIFAR_MEAN, CIFAR_STD, draws=3, change=_cifar),
  "inception": Preset(
    IMAGENET_MEAN,
    IMAGENET_STD,
    draws=CROP_DRAWS + 1,
    crop=inception_boxes,
    eval_crop=centre_boxes,
    change=_inception,
    size=224,
  ),
}
