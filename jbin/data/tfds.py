"""Any image data set that TensorFlow Datasets prepared as array records.

Reading needs no TensorFlow. To prepare a data set once (this downloads it):

  tfds.builder("cifar10", file_format="array_record").download_and_prepare()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jbin import errors
from jbin.data import _augment, _base, _images, _records

_CACHE_BYTES = 2**30


@_base.REGISTRY.register
def tfds(
  dataset: str = "cifar10",
  data_dir: str | None = None,
  preset: str = "cifar",
  train_split: str = "train",
  eval_split: str = "test",
  image_size: int = 0,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
  cached: bool | None = None,
  image_key: str = "image",
  label_key: str = "label",
) -> _base.Dataset:
  """A prepared TensorFlow Datasets image set: CIFAR-10, ImageNet, ...

  Presets: "cifar" pads by 4 pixels of black (size / 8), crops at random and
  mirrors half of the training images, pixels normalised as for CIFAR-10.
  "inception" cuts a random box (area 0.08 to 1, aspect 3/4 to 4/3), resizes it
  and mirrors half; evaluation cuts the centre 224/256 of the short side;
  pixels normalised as for ImageNet. "none" maps pixels 0 to 255 to -1 to 1.
  All resizing is Pillow's bicubic, which averages when it shrinks.

  Args:
    dataset: its name, as "cifar10", "imagenet2012" or "name/config:1.0.0".
    data_dir: the folder of prepared data sets; None: the environment variable
      TFDS_DATA_DIR, else ~/tensorflow_datasets.
    preset: "cifar", "inception" or "none".
    train_split: as "train" or "train[:90%]".
    eval_split: as "test", "validation" or "train[90%:]".
    image_size: side of the images after resizing; 0: 224 for "inception", else
      the data's own size.
    mean: of a pixel (0 to 255), one number or one per channel; None: the
      preset's.
    std: likewise.
    cached: decode a split once, when it is first read, and keep it as uint8;
      None: if a split's decoded images are of one size and take up to 1 GiB.
    image_key: the feature that holds the image.
    label_key: the feature that holds the class.

  Raises:
    errors.UserError: if the data set is not there, not in a format with random
      access, has no such split or feature, or options contradict each other.
  """
  if preset not in _augment.PRESETS:
    raise errors.UnknownName("augmentation preset", preset, _augment.PRESETS)
  steps = _augment.PRESETS[preset]
  images = _images.find(dataset, data_dir, image_key, label_key)
  shape = _shape(images, image_size or steps.size, preset)
  steps = dataclasses.replace(
    steps,
    mean=_channels("mean", mean, steps.mean, shape[2]),
    std=_channels("std", std, steps.std, shape[2]),
  )
  splits = [images.found.split(name) for name in (train_split, eval_split)]
  readers = [
    _Reader(
      _images.Records(
        images, split, shape, _keep(split, shape, steps, preset, cached)
      ),
      steps,
    )
    for split in splits
  ]
  return _base.images(
    name=dataset,
    num_classes=images.num_classes,
    image_shape=shape,
    num_train=splits[0].size,
    num_eval=splits[1].size,
    read_train=readers[0],
    read_eval=readers[1],
    draws=steps.draws,
  )


def _shape(
  images: _images.Images, size: int, preset: str
) -> tuple[int, int, int]:
  height, width, channels = images.shape
  if size:
    return size, size, channels
  if height is None or width is None:
    raise errors.UserError(
      f"the images of {images.found.name} differ in size, so preset"
      f" {preset!r} needs image_size, or take preset='inception'"
    )
  return height, width, channels


def _channels(
  name: str,
  given: Sequence[float] | None,
  default: tuple[float, ...],
  channels: int,
) -> tuple[float, ...]:
  values = default if given is None else tuple(float(x) for x in given)
  if len(values) not in (1, channels):
    raise errors.UserError(
      f"{name} has {len(values)} numbers and the images have {channels}"
      f" channels; give {name} as 1 or {channels} numbers (pixels 0 to 255)"
    )
  return values


def _keep(
  split: _records.Split,
  shape: tuple[int, int, int],
  steps: _augment.Preset,
  preset: str,
  cached: bool | None,
) -> bool:
  if steps.crop is not None:
    if cached:
      raise errors.UserError(
        f"cached=True cannot be had with preset {preset!r}, which cuts another"
        " box from each image every time; leave cached out"
      )
    return False
  small = split.size * shape[0] * shape[1] * shape[2] <= _CACHE_BYTES
  return small if cached is None else cached


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
  records: _images.Records
  steps: _augment.Preset

  def __call__(
    self, indices: np.ndarray, draws: np.ndarray | None
  ) -> _base.Batch:
    steps = self.steps

    def boxes(sizes: np.ndarray) -> np.ndarray | None:
      if draws is None:
        return steps.eval_crop and steps.eval_crop(sizes)
      return steps.crop and steps.crop(sizes, draws)

    images, labels = self.records.read(indices, boxes)
    if draws is not None and steps.change is not None:
      images = steps.change(images, draws)
    images = _augment.normalize(images, steps.mean, steps.std)
    return {"image": images, "label": labels}
