"""Decodes the images of prepared data sets."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from jbin import errors
from jbin.data import _lazy, _records

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DECODE_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Images:
  """The images of a prepared data set, and their classes.

  Attributes:
    found: the data set.
    shape: (H, W, C); H and W are None if they differ between images.
    num_classes: of the label.
    image_key: the feature that holds the image.
    label_key: the feature that holds the class.
  """

  found: _records.Found
  shape: tuple[int | None, int | None, int]
  num_classes: int
  image_key: str
  label_key: str


def find(
  name: str, data_dir: str | None, image_key: str, label_key: str
) -> Images:
  """Finds a prepared image set.

  Raises:
    errors.UserError: as `_records.find`, or if it lacks a feature, or one is
      no image or no class.
  """
  found = _records.find(name, data_dir)
  image = found.feature(image_key, "image_key")
  label = found.feature(label_key, "label_key")
  shape = tuple(image.shape)
  if len(shape) != 3 or shape[2] not in _MODES or image.np_dtype != np.uint8:
    raise errors.UserError(
      f"feature {image_key!r} of {name} is not an image of 1, 3 or 4 channels"
      f" of bytes: {image}; choose another with image_key"
    )
  if not hasattr(label, "num_classes"):
    raise errors.UserError(
      f"feature {label_key!r} of {name} is not a class: {label}; choose"
      " another with label_key"
    )
  size = (shape[0], shape[1], shape[2])
  return Images(found, size, int(label.num_classes), image_key, label_key)


class Records:
  """Decoded images and labels of a split, by index.

  Files are opened, and a cached split is decoded, when first read. A pickle
  carries the cache, so that workers need not decode it again.

  Args:
    images: the data set.
    split: one of its splits.
    shape: (H, W, C) of the images to give.
    cached: decode all images once and keep them; only for whole images.
  """

  def __init__(
    self,
    images: Images,
    split: _records.Split,
    shape: tuple[int, int, int],
    cached: bool,
  ):
    self._images = images
    self._split = split
    self._shape = shape
    self._cache = _lazy.Lazy(self._decode_all) if cached else None
    self._source: Any = None

  @property
  def decoded(self) -> bool:
    """Whether the cache is filled."""
    return self._cache is not None and self._cache.made

  def __getstate__(self) -> dict[str, Any]:
    """What a worker needs: everything but open files."""
    return {**self.__dict__, "_source": None}

  def read(
    self,
    indices: np.ndarray,
    boxes: Callable[[np.ndarray], np.ndarray | None],
  ) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, H, W, C) uint8 and labels (n,) int32 of n indices.

    Args:
      indices: (n,) integers.
      boxes: maps sizes (n, 2) to the boxes (n, 4) to cut, or to None for whole
        images; a cached split has whole images only.
    """
    if self._cache is None:
      return self._decode(indices, boxes)
    images, labels = self._cache.get()
    return images[indices], labels[indices]

  def _decode_all(self) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((self._split.size, *self._shape), np.uint8)
    labels = np.empty(self._split.size, np.int32)
    for start in range(0, len(labels), _DECODE_AT_ONCE):
      part = np.arange(start, min(start + _DECODE_AT_ONCE, len(labels)))
      images[part], labels[part] = self._decode(part, lambda _: None)
    return images, labels

  def _decode(
    self,
    indices: np.ndarray,
    boxes: Callable[[np.ndarray], np.ndarray | None],
  ) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    records = self._open().__getitems__(indices.tolist())
    files = [
      Image.open(io.BytesIO(record[self._images.image_key]))
      for record in records
    ]
    labels = [record[self._images.label_key] for record in records]
    chosen = boxes(np.asarray([file.size for file in files]))
    height, width, channels = self._shape
    images = np.empty((len(files), *self._shape), np.uint8)
    for i, file in enumerate(files):
      if file.mode != _MODES[channels]:
        file = file.convert(_MODES[channels])
      if chosen is not None:
        box = tuple(chosen[i].tolist())
        file = file.resize((width, height), Image.Resampling.BICUBIC, box)
      elif file.size != (width, height):
        file = file.resize((width, height), Image.Resampling.BICUBIC)
      images[i] = np.asarray(file).reshape(self._shape)
    return images, np.asarray(labels, np.int32)

  def _open(self) -> Any:
    if self._source is None:
      import tensorflow_datasets as tfds

      # tfds would decode with what it finds installed (OpenCV or Pillow),
      # which need not agree, and slower; so it hands over the encoded bytes.
      skip = {self._images.image_key: tfds.decode.SkipDecoding()}
      self._source = self._images.found.open(self._split, skip)
    return self._source
