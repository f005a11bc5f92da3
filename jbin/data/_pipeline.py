"""The one place that knows grain: from `batch_at(step)` to iterators."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from jbin import errors
from jbin.data import _random

_Batch = dict[str, np.ndarray]

# Elements are whole batches: grain's defaults, 16 threads and 500 elements,
# are meant for records. One thread overlaps reading with the training step.
_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
_IN_WORKER = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


def steps(
  batch_at: Callable[[int], _Batch], start: int, stop: int, workers: int
) -> grain.IterDataset[_Batch]:
  """`batch_at(start)` ... `batch_at(stop - 1)` in order, read ahead."""
  batches = grain.MapDataset.range(start, stop).map(batch_at)
  if not workers:
    return batches.to_iter_dataset(_AHEAD)
  _allow_workers()
  return batches.to_iter_dataset(_IN_WORKER).mp_prefetch(
    grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
    worker_init_fn=_end_with_parent,
  )


def _end_with_parent(worker: int, workers: int) -> None:
  """Lets this worker process end when its parent is killed.

  Else it waits for ever, with its memory and the parent's open files.
  """
  del worker, workers
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def shuffled(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
  """Example indices (n,) at these positions of the endless shuffled line."""
  order = _order(size, seed)
  return np.fromiter((order[int(i)] for i in positions), np.int64)


@functools.lru_cache(maxsize=8)
def _order(size: int, seed: int) -> grain.MapDataset[int]:
  # grain's epoch e of seed s is epoch e - 1 of seed s + 1; hashed seeds are
  # far apart, so runs with seeds 0, 1, 2 share no epoch's order.
  far = int(_random.hash64(seed, np.zeros(1))[0]) % 2**32
  return grain.MapDataset.range(size).shuffle(seed=far).repeat()


def _allow_workers() -> None:
  # grain passes its debug flags to workers and so reads them, which absl
  # forbids before flags are parsed: in pytest, in a notebook, in any program
  # that is not an absl app (google/grain#1355). Their defaults are meant.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def _next(ahead: grain.DatasetIterator[_Batch], i: int) -> _Batch:
  """The next batch, which is batch i.

  Raises:
    errors.RunFailed: if the process that was to read it was killed.
  """
  try:
    return next(ahead)
  except RuntimeError as error:
    said = re.search(
      r"terminated unexpectedly with exit code (-?\d+)", str(error)
    )
    if said is None:
      raise
    raise errors.RunFailed(
      f"a process that reads data ended before batch {i} with exit code"
      f" {said[1]}; if memory ran out (-9), set fewer workers; the same command"
      " goes on from the newest checkpoint"
    ) from error


class Pass:
  """`batch_at(0)` ... `batch_at(batches - 1)`, once per iteration of this."""

  def __init__(
    self, batch_at: Callable[[int], _Batch], batches: int, workers: int
  ):
    self._batch_at = batch_at
    self._batches = batches
    self._workers = workers

  def __len__(self) -> int:
    return self._batches

  def __iter__(self) -> Iterator[_Batch]:
    """The batches in order; workers end when the loop over them does."""
    ahead = iter(steps(self._batch_at, 0, self._batches, self._workers))
    try:
      for i in range(self._batches):
        yield _next(ahead, i)
    finally:
      ahead.close()


class Steps(grain.IterDataset[_Batch]):
  """`batch_at(0)`, `batch_at(1)`, ... without end, from any step on.

  grain's own iterator state depends on how many workers read; here it is the
  step, so that a run may go on with other workers or processes.
  """

  def __init__(
    self,
    batch_at: Callable[[int], _Batch],
    workers: int,
    identity: dict[str, int],
  ):
    super().__init__()
    self._batch_at = batch_at
    self._workers = workers
    self._identity = identity

  def __iter__(self) -> StepIterator:
    """An iterator that stands at step 0."""
    return StepIterator(self.start_at, self._identity)

  def start_at(self, step: int) -> grain.DatasetIterator[_Batch]:
    """A grain iterator over the batches of `step` and later ones."""
    return iter(steps(self._batch_at, step, sys.maxsize, self._workers))


class StepIterator(grain.DatasetIterator[_Batch]):
  """Iterates over `Steps`; reads nothing before the first batch is asked."""

  def __init__(
    self,
    start_at: Callable[[int], grain.DatasetIterator[_Batch]],
    identity: dict[str, int],
  ):
    super().__init__()
    self._start_at = start_at
    self._identity = identity
    self._step = 0
    self._ahead: grain.DatasetIterator[_Batch] | None = None

  def __next__(self) -> _Batch:
    """The batch of the step that the iterator stands at."""
    self.start_prefetch()
    assert self._ahead is not None
    batch = _next(self._ahead, self._step)
    self._step += 1
    return batch

  def start_prefetch(self) -> None:
    """Starts to read ahead from the step that the iterator stands at."""
    if self._closed:
      raise ValueError("this data iterator was closed; make a new one")
    if self._ahead is None:
      self._ahead = self._start_at(self._step)
      self._ahead.start_prefetch()

  def get_state(self) -> dict[str, Any]:
    """{"step": batches given so far, "seed", "batch_size"}."""
    return {"step": self._step, **self._identity}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to the step of a state.

    Raises:
      errors.UserError: if the state is of another seed or batch size, with
        which the same step is another place in the data.
    """
    for key, mine in self._identity.items():
      if state[key] != mine:
        raise errors.UserError(
          f"the data position was saved with {key} {state[key]}, this run has"
          f" {key} {mine}; go on with {key}={state[key]}, or start anew in"
          " another workdir"
        )
    self._stop()
    self._step = int(state["step"])

  def close(self) -> None:
    """Ends the workers; a closed iterator gives no more batches."""
    super().close()
    self._stop()

  def _stop(self) -> None:
    if self._ahead is not None:
      self._ahead.close()
      self._ahead = None
