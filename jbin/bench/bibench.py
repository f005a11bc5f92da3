"""BiBench's six scores of a binarization method.

A track measures a method on several items (tasks, networks, corruptions,
settings, devices) against the same networks in floating point. Items are the
first axis of every array; further axes, where a binary array has them, are
methods (or anything else that is scored side by side), and remain. A float
array has the items' axis alone, or broadcasts with the binary one.

Each track ends in an overall metric, the quadratic mean of relative scores;
1 is as good as floating point, larger is better, and the paper prints 100
times the four that are shares of it. NaN (a run that failed, an operator that
an engine cannot express) makes its score NaN. Numbers are float64.

Reference: Qin et al., BiBench, 2023 (arXiv 2301.11233).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jbin import errors, references

Array = npt.NDArray[np.float64]
FLOAT_BITS = 32  # what a float parameter takes, a binary one taking 1
BINARY_OPS = 64  # binary operations that cost as much as a float one


def _positive(name: str, values: npt.ArrayLike) -> Array:
  array = np.asarray(values, np.float64)
  if not array.ndim or not array.shape[0]:
    raise errors.UserError(
      f"{name}: expected an array whose first axis is the items, at least one;"
      f" got shape {array.shape}"
    )
  if (array <= 0).any():
    raise errors.UserError(
      f"{name}: a relative score needs positive numbers, got {array.min()}"
    )
  return array


def _ratio(
  over: tuple[str, npt.ArrayLike], under: tuple[str, npt.ArrayLike]
) -> Array:
  """`over / under`, item by item; the shorter shape broadcasts to the right."""
  top, bottom = _positive(*over), _positive(*under)
  if top.shape[0] != bottom.shape[0]:
    raise errors.UserError(
      f"{over[0]} has {top.shape[0]} items and {under[0]} has"
      f" {bottom.shape[0]}; both have the same ones, along the first axis"
    )
  ndim = max(top.ndim, bottom.ndim)
  top, bottom = (
    part.reshape(part.shape + (1,) * (ndim - part.ndim))
    for part in (top, bottom)
  )
  return top / bottom


def _group_means(ratio: Array, groups: npt.ArrayLike | None) -> Array:
  """The plain mean within each group of items: (groups, ...)."""
  if groups is None:
    return ratio
  names = np.asarray(groups)
  if names.shape != ratio.shape[:1]:
    raise errors.UserError(
      f"groups: expected one name for each of {ratio.shape[0]} items, got"
      f" shape {names.shape}"
    )
  return np.stack([ratio[names == name].mean(0) for name in np.unique(names)])


def quadratic_mean(scores: npt.ArrayLike) -> Array:
  """`sqrt(mean(scores^2))` over the first axis."""
  return np.sqrt(np.square(np.asarray(scores, np.float64)).mean(0))


def relative_accuracy(binary: npt.ArrayLike, full: npt.ArrayLike) -> Array:
  """`A_bi / A` of each item.

  Args:
    binary: (items, ...) accuracies (or any measure that is better if larger).
    full: (items,) those of the float networks.

  Raises:
    errors.UserError: if shapes do not fit or a number is not positive.
  """
  return _ratio(("binary", binary), ("full", full))


@references.cites("bibench")
def om_task(
  binary: npt.ArrayLike,
  full: npt.ArrayLike,
  tasks: npt.ArrayLike | None = None,
) -> Array:
  """Learning tasks: `sqrt(mean_i E(A_bi / A)_i^2)` over the tasks i.

  E is the plain mean over the networks of a task.

  Args:
    binary: (items, ...) accuracies, an item a network on a task.
    full: (items,) those of the float networks.
    tasks: (items,) the name of each item's task; None: each item is one.

  Raises:
    errors.UserError: if shapes do not fit or a number is not positive.
  """
  return quadratic_mean(_group_means(relative_accuracy(binary, full), tasks))


@references.cites("bibench")
def om_arch(
  binary: npt.ArrayLike, full: npt.ArrayLike, families: npt.ArrayLike
) -> Array:
  """Architectures: `om_task` with families in the place of tasks.

  The paper has three: convolutional nets, transformers, and perceptrons (point
  clouds and DFSMN).

  Args:
    binary: (items, ...) accuracies.
    full: (items,) those of the float networks.
    families: (items,) the name of each item's family.

  Raises:
    errors.UserError: if shapes do not fit or a number is not positive.
  """
  return om_task(binary, full, families)


@references.cites("bibench")
def om_robust(
  binary: npt.ArrayLike,
  full: npt.ArrayLike,
  corruptions: npt.ArrayLike | None = None,
) -> Array:
  """Robustness: `sqrt(mean_i E(G / G_bi)_i^2)` over the corruptions i.

  G is the gap, accuracy on clean images less that under a corruption: the
  float network's over the binary one's, so more than 1 is more robust.

  Args:
    binary: (items, ...) gaps.
    full: (items,) those of the float networks.
    corruptions: (items,) the name of each item's corruption (its severities
      are averaged); None: each item is one.

  Raises:
    errors.UserError: if shapes do not fit or a gap is not positive.
  """
  ratio = _ratio(("full", full), ("binary", binary))
  return quadratic_mean(_group_means(ratio, corruptions))


def time_cost(binary: npt.ArrayLike, full: npt.ArrayLike) -> Array:
  """`E(T / T_bi)`: how much faster a float network trains; (items, ...)."""
  return _ratio(("full", full), ("binary", binary)).mean(0)


def sensitivity(binary: npt.ArrayLike, full: npt.ArrayLike) -> Array:
  """`std(A) / std(A_bi)` over settings: below 1, a binary net is choosier.

  Args:
    binary: (settings, ...) accuracies under each setting of optimizer, learning
      rate and schedule (the paper has eight).
    full: (settings,) those of the float network.

  Raises:
    errors.UserError: if shapes do not fit, or accuracies of a network are all
      equal.
  """
  _ratio(("full", full), ("binary", binary))  # refuses shapes that do not fit
  spreads = (np.asarray(part, np.float64).std(0) for part in (full, binary))
  top, bottom = (_positive("spread", spread[None]) for spread in spreads)
  return (_ratio(("full", top), ("binary", bottom)))[0]


@references.cites("bibench")
def om_train(
  binary_times: npt.ArrayLike,
  full_times: npt.ArrayLike,
  binary: npt.ArrayLike,
  full: npt.ArrayLike,
) -> Array:
  """Training: `sqrt((time_cost^2 + sensitivity^2) / 2)`.

  Args:
    binary_times: (runs, ...) training times.
    full_times: (runs,) those of the float networks.
    binary: (settings, ...) accuracies, as in `sensitivity`.
    full: (settings,) those of the float network.

  Raises:
    errors.UserError: as `time_cost` and `sensitivity`.
  """
  cost = time_cost(binary_times, full_times)
  return quadratic_mean([cost, sensitivity(binary, full)])


def _kept(
  total: npt.ArrayLike, full: npt.ArrayLike, names: tuple[str, str], share: int
) -> Array:
  """`total / ((total - full) / share + full)`."""
  everything = _positive(names[0], total)
  left = np.asarray(full, np.float64)
  if left.shape != everything.shape or not (left <= everything).all():
    raise errors.UserError(
      f"{names[1]} is the part of {names[0]} that stays in floating point, of"
      f" the same shape and no larger; got {left} of {everything}"
    )
  return everything / ((everything - left) / share + left)


def compression_ratio(params: npt.ArrayLike, full: npt.ArrayLike) -> Array:
  """`r_c = P / ((P - P_full) / 32 + P_full)` of each network.

  Args:
    params: P, the parameters of the float network.
    full: P_full, the part that stays in floating point: first convolution,
      classifier, norms, and the scales and thresholds that the method adds.

  Raises:
    errors.UserError: if shapes differ or a part is more than the whole.
  """
  return _kept(params, full, ("params", "full"), FLOAT_BITS)


def speedup_ratio(flops: npt.ArrayLike, full: npt.ArrayLike) -> Array:
  """`r_s = F / ((F - F_full) / 64 + F_full)` of each network.

  Args:
    flops: F, the operations of a forward pass.
    full: F_full, the part in floating point.

  Raises:
    errors.UserError: if shapes differ or a part is more than the whole.
  """
  return _kept(flops, full, ("flops", "full"), BINARY_OPS)


@references.cites("bibench")
def om_comp(
  params: npt.ArrayLike,
  full_params: npt.ArrayLike,
  flops: npt.ArrayLike,
  full_flops: npt.ArrayLike,
) -> Array:
  """Theoretical complexity: `sqrt((E(r_c)^2 + E(r_s)^2) / 2)`.

  Args:
    params: (networks, ...) as in `compression_ratio`.
    full_params: the same shape.
    flops: (networks, ...) as in `speedup_ratio`.
    full_flops: the same shape.

  Raises:
    errors.UserError: as `compression_ratio` and `speedup_ratio`.
  """
  smaller = compression_ratio(params, full_params).mean(0)
  return quadratic_mean([smaller, speedup_ratio(flops, full_flops).mean(0)])


@references.cites("bibench")
def om_infer(
  binary_times: npt.ArrayLike,
  full_times: npt.ArrayLike,
  binary_sizes: npt.ArrayLike,
  full_sizes: npt.ArrayLike,
) -> Array:
  """Inference: `sqrt((E(T / T_bi)^2 + E(S / S_bi)^2) / 2)`.

  Args:
    binary_times: (items, ...) latencies, an item an engine on a device.
    full_times: (items,) those of the float networks.
    binary_sizes: (items, ...) sizes of the model's file.
    full_sizes: (items,) those of the float networks.

  Raises:
    errors.UserError: if shapes do not fit or a number is not positive.
  """
  faster = _ratio(("full_times", full_times), ("binary_times", binary_times))
  smaller = _ratio(("full_sizes", full_sizes), ("binary_sizes", binary_sizes))
  return quadratic_mean([faster.mean(0), smaller.mean(0)])
