"""Finds prepared data sets, opens their array records, decodes the images."""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from jbin import errors

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DECODE_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Found:
  """A prepared data set.

  Attributes:
    name: as the user named it.
    directory: the folder of this version.
    image_shape: (H, W, C); H and W are None if they differ between images.
    num_classes: of the label.
    image_key: the feature that holds the image.
    label_key: the feature that holds the class.
  """

  name: str
  directory: str
  image_shape: tuple[int | None, int | None, int]
  num_classes: int
  image_key: str
  label_key: str

  def split(self, name: str) -> Split:
    """A split or a slice of one, as "train[:90%]".

    Raises:
      errors.UserError: if there is none, or it is empty.
    """
    known = _builder(self.directory).info.splits
    base = name.split("[")[0]
    if base not in known and "+" not in name:
      raise errors.UnknownName(f"split of {self.name}", base, known)
    try:
      size = known[name].num_examples
    except Exception as error:
      raise errors.UserError(
        f"{name!r} is not a split of {self.name} ({error}); write it as"
        f" {base!r}, '{base}[:90%]' or '{base}[:1000]'; it has"
        f" {', '.join(known)}"
      ) from error
    if not size:
      raise errors.UserError(
        f"split {name!r} of {self.name} has no examples; {base!r} has"
        f" {known[base].num_examples}"
      )
    return Split(name, size)


@dataclasses.dataclass(frozen=True)
class Split:
  """A split's name and its number of examples."""

  name: str
  size: int


def find(
  name: str, data_dir: str | None, image_key: str, label_key: str
) -> Found:
  """Finds a prepared data set and reads its description.

  Raises:
    errors.UserError: if it is not there, has no random access or lacks a
      feature; the message says what is there and how to prepare it.
  """
  from tensorflow_datasets.core import read_only_builder, registered

  if data_dir is None:
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  root = os.path.expanduser(data_dir)
  try:
    builder = read_only_builder.builder_from_files(name, data_dir=root)
  except registered.DatasetNotFoundError:
    raise _not_found(name, root) from None
  _check_format(name, builder)
  features: Any = builder.info.features
  for key, option in ((image_key, "image_key"), (label_key, "label_key")):
    if key not in features:
      raise errors.UserError(
        f"{name} has no feature {key!r} ({option}); it has"
        f" {', '.join(sorted(features))}"
      )
  image, label = features[image_key], features[label_key]
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
  return Found(
    name,
    str(builder.data_dir),
    (shape[0], shape[1], shape[2]),
    int(label.num_classes),
    image_key,
    label_key,
  )


def _not_found(name: str, root: str) -> errors.UserError:
  import tensorflow_datasets as tfds
  from etils import epath

  folder = epath.Path(root)
  there = sorted(
    path.name
    for path in (folder.iterdir() if folder.is_dir() else ())
    if path.is_dir() and not path.name.startswith(("downloads", "."))
  )
  base = name.split("/")[0].split(":")[0]
  known = set(tfds.list_builders(with_community_datasets=False))
  near = difflib.get_close_matches(base, known | set(there), n=1, cutoff=0.5)
  if base not in known and base not in there and near:
    return errors.UnknownName(f"data set (in {root})", name, known | set(there))
  what = f"which holds {', '.join(there)}" if there else "which is empty"
  if not folder.is_dir():
    what = "which does not exist"
  return errors.UserError(
    f"data set {name!r} is not prepared in data_dir {root}, {what}; set"
    " data_dir or TFDS_DATA_DIR to where it is, or prepare it once:"
    f" tfds.builder({name!r}, data_dir={root!r},"
    " file_format='array_record').download_and_prepare()"
  )


def _check_format(name: str, builder: Any) -> None:
  from tensorflow_datasets.core import file_adapters

  formats = set(builder.info.available_file_formats())
  if not formats & file_adapters.FileFormat.with_random_access():
    stored = ", ".join(sorted(str(item.value) for item in formats))
    raise errors.UserError(
      f"data set {name!r} in {builder.data_dir} is stored as {stored}, which"
      " has no random access; write it as array records once: tfds"
      f" convert_format --dataset_version_dir={builder.data_dir}"
      " --out_file_format=array_record"
    )


def _builder(directory: str) -> Any:
  import tensorflow_datasets as tfds

  return tfds.builder_from_directory(directory)


class Records:
  """Decoded images and labels of a split, by index.

  Files are opened, and a cached split is decoded, when first read. A pickle
  carries the cache, so that workers need not decode it again.

  Args:
    found: the data set.
    split: one of its splits.
    shape: (H, W, C) of the images to give.
    cached: decode all images once and keep them; only for whole images.
  """

  def __init__(
    self, found: Found, split: Split, shape: tuple[int, int, int], cached: bool
  ):
    self._found = found
    self._split = split
    self._shape = shape
    self._cached = cached
    self._cache: tuple[np.ndarray, np.ndarray] | None = None
    self._source: Any = None
    self._lock = threading.Lock()

  @property
  def decoded(self) -> bool:
    """Whether the cache is filled."""
    return self._cache is not None

  def __getstate__(self) -> dict[str, Any]:
    """What a worker needs: everything but open files and the lock."""
    if self._cached:
      self._load()
    return {**self.__dict__, "_source": None, "_lock": None}

  def __setstate__(self, state: dict[str, Any]) -> None:
    """Restores what `__getstate__` gave."""
    self.__dict__.update(state)
    self._lock = threading.Lock()

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
    if not self._cached:
      return self._decode(indices, boxes)
    images, labels = self._load()
    return images[indices], labels[indices]

  def _load(self) -> tuple[np.ndarray, np.ndarray]:
    with self._lock:
      if self._cache is None:
        images = np.empty((self._split.size, *self._shape), np.uint8)
        labels = np.empty(self._split.size, np.int32)
        for start in range(0, len(labels), _DECODE_AT_ONCE):
          part = np.arange(start, min(start + _DECODE_AT_ONCE, len(labels)))
          images[part], labels[part] = self._decode(part, lambda _: None)
        self._cache = images, labels
      return self._cache

  def _decode(
    self,
    indices: np.ndarray,
    boxes: Callable[[np.ndarray], np.ndarray | None],
  ) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    records = self._open().__getitems__(indices.tolist())
    files = [
      Image.open(io.BytesIO(record[self._found.image_key]))
      for record in records
    ]
    labels = [record[self._found.label_key] for record in records]
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
      self._source = _builder(self._found.directory).as_data_source(
        split=self._split.name,
        decoders={self._found.image_key: tfds.decode.SkipDecoding()},
      )
    return self._source
