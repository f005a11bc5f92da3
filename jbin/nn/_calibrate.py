"""What activation quantizers learn, and hashes, start from one batch."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any, TypeGuard

import jax
import numpy as np
from flax import nnx

from jbin import errors, views
from jbin.nn import _kernel_hash, _quantizer

_Starting = _quantizer.Quantizer | _kernel_hash.KernelHash


def calibrate(model: nnx.Module, *args: Any, **kwargs: Any) -> None:
  """Sets what activation quantizers learn, and hashes, from one batch.

  LSQ's steps, BiT's scales and the like start from the first batch in the
  papers' code. `model(*args, **kwargs)` runs once, as for evaluation, and
  every quantizer whose `parameters` look at the tensor takes them from what it
  sees, in place; every `KernelHash` that is not fitted is. Nothing else
  changes. Kernels are seen at creation, and need no batch.

  Args:
    model: any module that holds quantizers or hashes.
    *args: what the model is called with; what is no array (`train=False`)
      stays what it is.
    **kwargs: the same by name.

  Raises:
    errors.UserError: if no quantizer of the model looks at its tensor, or the
      run reaches none of those that do. It warns (`errors.JbinWarning`) of
      some that it does not reach.
  """
  _check_calibrates(model)
  view = views.view(
    model, calibrating=True, use_running_average=True, deterministic=True
  )
  graphdef, params, rest = nnx.split(view, nnx.Param, ...)
  leaves, tree = jax.tree.flatten((args, kwargs))
  is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
  reached: dict[str, bool] = {}

  @jax.jit
  def run(params: Any, rest: Any, arrays: Any) -> Any:
    seen = nnx.merge(graphdef, params, rest, copy=True)
    before = _waiting(seen)
    pairs = zip(leaves, is_array, strict=True)
    given = iter(arrays)
    all_of_them = [next(given) if array else leaf for leaf, array in pairs]
    args, kwargs = jax.tree.unflatten(tree, all_of_them)
    seen(*args, **kwargs)
    for path, value in _waiting(seen).items():
      # What was not set is the very array that came in.
      reached[path] = value is not before[path]
    return nnx.state(seen, nnx.Any(nnx.Param, _kernel_hash.HashState))

  arrays = [x for x, array in zip(leaves, is_array, strict=True) if array]
  found = run(params, rest, arrays)
  _tell_missed([path for path, hit in reached.items() if not hit], reached)
  nnx.update(model, found)


def _starts(part: Any) -> TypeGuard[_Starting]:
  """Whether it is a hash, or a quantizer that starts from a batch.

  One of a kernel, which has a rank, has seen it at creation.
  """
  if isinstance(part, _kernel_hash.KernelHash):
    return True
  return (
    isinstance(part, _quantizer.Quantizer)
    and part.spec.calibrates
    and not part.spec.seeded
    and part.rank is None
  )


def _waiting(model: nnx.Module) -> dict[str, Any]:
  """Path of each part that takes a batch -> its first such value."""
  return {
    "/".join(map(str, path)): _first(part)
    for path, part in nnx.iter_modules(model)
    if _starts(part)
  }


def _first(part: _Starting) -> Any:
  if isinstance(part, _kernel_hash.KernelHash):
    return part.fitted.get_value()
  values = part.learned.values()
  return next(v.get_value() for v in values if isinstance(v, nnx.Variable))


def _check_calibrates(model: nnx.Module) -> None:
  parts = [part for _, part in nnx.iter_modules(model)]
  if any(map(_starts, parts)):
    return
  held = [part for part in parts if isinstance(part, _quantizer.Quantizer)]
  why = "no quantizer of this model starts from a batch, and it has no hash"
  if any(part.spec.calibrates for part in held):
    why = (
      "the quantizers of this model that start from a tensor are those of"
      " kernels, which they have seen at creation"
    )
  raise errors.UserError(f"calibrate: {why}; leave the call out")


def _tell_missed(missed: list[str], every: Collection[str]) -> None:
  """Raises if all were missed; warns of some."""
  if not missed:
    return
  names = ", ".join(map(repr, missed[:3]))
  more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
  text = (
    f"calibrate: the run did not set {names}{more}: the model does not call"
    " them on this input, or does so inside a jax.lax.scan (take nnx.scan)"
  )
  if len(missed) == len(every):
    raise errors.UserError(text)
  warnings.warn(text, errors.JbinWarning, stacklevel=3)
