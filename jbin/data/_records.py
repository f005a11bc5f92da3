"""Finds prepared data sets, and opens their array records: one way for all."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jbin import errors

_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Found:
  """A prepared data set.

  Attributes:
    name: as the user named it.
    directory: the folder of this version.
  """

  name: str
  directory: str

  def feature(self, key: str, option: str) -> Any:
    """What the data set says of a feature.

    Args:
      key: its name.
      option: the argument that named it, for the message.

    Raises:
      errors.UserError: if there is none.
    """
    features: Any = _builder(self.directory).info.features
    if key not in features:
      raise errors.UserError(
        f"{self.name} has no feature {key!r} ({option}); it has"
        f" {', '.join(sorted(features))}"
      )
    return features[key]

  @property
  def features(self) -> tuple[str, ...]:
    """The names of all features."""
    features: Any = _builder(self.directory).info.features
    return tuple(sorted(features))

  @property
  def splits(self) -> tuple[str, ...]:
    """The names of all splits."""
    return tuple(_builder(self.directory).info.splits)

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

  def open(
    self, split: Split, decoders: Mapping[str, Any] | None = None
  ) -> Any:
    """The examples of a split, by index; see `tfds.as_data_source`."""
    return _builder(self.directory).as_data_source(
      split=split.name, decoders=decoders
    )

  def texts(self, split: Split, key: str) -> Iterator[str]:
    """A feature of all examples of a split."""
    source = self.open(split)
    for start in range(0, split.size, _AT_ONCE):
      stop = min(start + _AT_ONCE, split.size)
      for each in source.__getitems__(list(range(start, stop))):
        yield each[key].decode()


@dataclasses.dataclass(frozen=True)
class Split:
  """A split's name and its number of examples."""

  name: str
  size: int


def find(name: str, data_dir: str | None) -> Found:
  """Finds a prepared data set and reads its description.

  Raises:
    errors.UserError: if it is not there or has no random access; the message
      says what is there and how to prepare it.
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
  return Found(name, str(builder.data_dir))


def check_text(found: Found, key: str, option: str) -> None:
  """Raises if a feature is no text.

  Args:
    found: the data set.
    key: the feature.
    option: the argument that named it, for the message.

  Raises:
    errors.UserError: if it is none, or not there.
  """
  feature = found.feature(key, option)
  if feature.np_dtype != np.object_ or feature.shape:
    raise errors.UserError(
      f"feature {key!r} of {found.name} is not a text: {feature}; choose"
      f" another with {option}"
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
