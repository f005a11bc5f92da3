"""What a source of data is, and how its examples become batches.

Training examples stand on one endless line: epoch after epoch, each shuffled
anew. Step k of global batch size B takes positions [kB, (k+1)B) of that line,
and process p of P takes the p-th P-th of them. So neither the number of
processes nor of workers changes what a step sees, and an iterator's whole
state is its step. No example is dropped at the end of an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from jbin import errors, registry
from jbin.data import _random

if TYPE_CHECKING:
  from jbin.data import _pipeline, _tokens

REGISTRY = registry.Registry("data source")

Batch: TypeAlias = dict[str, np.ndarray]
Reader: TypeAlias = Callable[[np.ndarray, np.ndarray | None], Batch]


class Feature(NamedTuple):
  """One array of an example."""

  shape: tuple[int, ...]
  dtype: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A source of examples: what a factory in this room returns.

  A reader maps (example indices (b,) int64, random numbers (b, draws) float64
  in [0, 1), or None to read without augmentation) to the arrays of
  `features`, each with a leading axis b. It is pure and can be pickled, for
  workers.

  Attributes:
    name: the name of the data set.
    features: the arrays of one example: "image" (H, W, C) float32, or "tokens",
      "segments" and "token_mask" (length,) int32; "label" () int32, or float32
      for a regression; "targets" (length,) int32 where tokens are predicted,
      and "target_bytes" () float32 where a row is text that goes on.
    offers: arguments of a model that follow from the data (`num_classes`,
      `in_features`, `image_size`, `vocab_size`, `max_length`).
    num_train: examples in the training split.
    num_eval: examples in the evaluation split.
    read_train: reads training examples.
    read_eval: reads evaluation examples; always called without draws.
    draws: how many random numbers the augmentation of one example takes.
    tokenizer: gives what texts' ids depend on; None: no texts.
  """

  name: str
  features: Mapping[str, Feature]
  offers: Mapping[str, Any]
  num_train: int
  num_eval: int
  read_train: Reader = dataclasses.field(repr=False)
  read_eval: Reader = dataclasses.field(repr=False)
  draws: int = 0
  tokenizer: Callable[[], _tokens.Tokenizer] | None = dataclasses.field(
    default=None, repr=False
  )

  @property
  def num_classes(self) -> int:
    """Labels are 0 to num_classes - 1."""
    return self.offers["num_classes"]

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C) of a batch's images."""
    return self.features["image"].shape

  def train(
    self,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
  ) -> _pipeline.Steps:
    """Endless shuffled and augmented batches, local to this process.

    The iterator yields the arrays of `features`, each with a leading axis
    b = batch_size / process_count. Its `get_state()` is {"step", "seed",
    "batch_size"}; it goes on exactly from there, also with another number of
    workers or processes, and grain's Orbax handlers save and restore it. Close
    it after use if it has workers.

    Args:
      batch_size: examples in a step over all processes.
      seed: of the order and the augmentation; any integer.
      process_index: which share of each batch to read.
      process_count: how many processes share a batch.
      workers: processes that read ahead; 0 reads ahead in one thread.

    Raises:
      errors.UserError: if the batch cannot be shared out so.
    """
    rows = _rows(batch_size, process_index, process_count, workers)
    from jbin.data import _pipeline

    batch_at = TrainBatch(
      self.read_train, self.num_train, self.draws, batch_size, seed, rows
    )
    identity = {"seed": seed, "batch_size": batch_size}
    return _pipeline.Steps(batch_at, workers, identity)

  def eval(
    self,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
  ) -> _pipeline.Pass:
    """One pass over the evaluation split in order, local to this process.

    Batches have an extra "mask": float32 (b,), 1 for an example and 0 for the
    padding that fills up the last one. Every process yields
    ceil(num_eval / batch_size) batches, which is the result's `len`, and each
    example appears once. The result can be iterated again.

    Args:
      batch_size: examples in a batch over all processes.
      process_index: which share of each batch to read.
      process_count: how many processes share a batch.
      workers: processes that read ahead; 0 reads ahead in one thread.

    Raises:
      errors.UserError: if the batch cannot be shared out so.
    """
    rows = _rows(batch_size, process_index, process_count, workers)
    from jbin.data import _pipeline

    batch_at = EvalBatch(self.read_eval, self.num_eval, batch_size, rows)
    return _pipeline.Pass(batch_at, -(-self.num_eval // batch_size), workers)


def _rows(
  batch_size: int, process_index: int, process_count: int, workers: int
) -> slice:
  """The rows of the global batch that one process reads."""
  if batch_size < 1:
    raise errors.UserError(
      f"batch_size is {batch_size}; it must be 1 or more examples"
    )
  if not 0 <= process_index < process_count:
    raise errors.UserError(
      f"process_index is {process_index}; with process_count {process_count}"
      f" it must be from 0 to {process_count - 1}"
    )
  if batch_size % process_count:
    below = batch_size - batch_size % process_count
    above = below + process_count
    raise errors.UserError(
      f"batch_size {batch_size} is not a multiple of process_count"
      f" {process_count}, and each process reads an equal share; choose"
      f" {f'{below} or {above}' if below else above}"
    )
  if workers < 0:
    raise errors.UserError(f"workers is {workers}; it must be 0 or more")
  local = batch_size // process_count
  return slice(process_index * local, (process_index + 1) * local)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainBatch:
  """The local training batch of a step, as a pure function of the step."""

  read: Reader
  size: int
  draws: int
  batch_size: int
  seed: int
  rows: slice

  def __call__(self, step: int) -> Batch:
    """The arrays of the data set's features, (b, ...), of that step."""
    from jbin.data import _pipeline

    first = int(step) * self.batch_size
    positions = np.arange(first + self.rows.start, first + self.rows.stop)
    indices = _pipeline.shuffled(positions, self.size, self.seed)
    draws = None
    if self.draws:
      draws = _random.uniforms(self.seed, positions, self.draws)
    return self.read(indices, draws)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatch:
  """The local evaluation batch of that number, padded to the full size."""

  read: Reader
  size: int
  batch_size: int
  rows: slice

  def __call__(self, number: int) -> Batch:
    """As `TrainBatch`, with "mask": (b,) float32."""
    first = int(number) * self.batch_size
    positions = np.arange(first + self.rows.start, first + self.rows.stop)
    real = positions < self.size
    # A padding row repeats the last example, so that every row is well-formed;
    # it is then cleared.
    batch = self.read(np.minimum(positions, self.size - 1), None)
    if not real.all():
      batch = {name: array.copy() for name, array in batch.items()}
      for array in batch.values():
        array[~real] = 0
    return {**batch, "mask": real.astype(np.float32)}


def images(
  name: str,
  num_classes: int,
  image_shape: tuple[int, int, int],
  num_train: int,
  num_eval: int,
  read_train: Reader,
  read_eval: Reader,
  draws: int = 0,
) -> Dataset:
  """A data set of images with classes; see `Dataset`."""
  offers = {"num_classes": num_classes, "in_features": image_shape[-1]}
  if image_shape[0] == image_shape[1]:
    offers["image_size"] = image_shape[0]
  return Dataset(
    name,
    image_features(image_shape),
    offers,
    num_train,
    num_eval,
    read_train,
    read_eval,
    draws,
  )


def image_features(image_shape: tuple[int, ...]) -> dict[str, Feature]:
  """The arrays of an image with a class."""
  return {
    "image": Feature(image_shape, np.float32),
    "label": Feature((), np.int32),
  }


def text_features(length: int) -> dict[str, Feature]:
  """The arrays of a text of up to `length` tokens, without what is asked.

  "segments" says which of two texts a token is of, 0 or 1; "token_mask" is 1
  for a token and 0 for the padding behind the last.
  """
  names = ("tokens", "segments", "token_mask")
  return {name: Feature((length,), np.int32) for name in names}
