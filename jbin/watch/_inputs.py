"""Which side the inputs of quantized layers fall on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, nn, views
from jbin.watch import _paths


@dataclasses.dataclass(frozen=True)
class Input:
  """A quantized input: what it is called, and its width."""

  label: str
  # The layer's path, for its `input_quantizer`; else the quantizer's own.
  bits: int


def quantized_inputs(model: nnx.Module) -> dict[tuple[Any, ...], Input]:
  """The quantizers of a model that quantize no weight, by path."""
  of_weights = {id(part) for part in nn.latents(model).values()}
  return {
    path: Input(_paths.label(path, "input_quantizer"), part.spec.bits)
    for path, part in nnx.iter_modules(model)
    if isinstance(part, nn.Quantizer) and id(part) not in of_weights
  }


def twin(model: nnx.Module) -> nnx.Module:
  """The view of a model that watches: `nnx.view(model, watching=True)`.

  The model's variables are its own. Quantizers of an `nnx.RNN` have their
  counters from here on: a carry of a scan, as its cell is, cannot grow.
  """
  view = views.view(model, watching=True)
  for _, part in nnx.iter_modules(view):
    if isinstance(part, nnx.RNN):
      zeros = jnp.zeros((*_stack(part), 2), jnp.float32)
      for _, inner in nnx.iter_modules(part):
        if isinstance(inner, nn.Quantizer) and inner.seen is None:
          inner.seen = nn.QuantizerSeen(zeros)
  return view


def _stack(module: nnx.Module) -> tuple[int, ...]:
  """The leading axes of a stack of modules, as its low-bit kernels tell."""
  params = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
  for path, part in nn.latents(module).items():
    if path in params and part.rank is not None:
      shape = params[path].get_value().shape
      return shape[: len(shape) - part.rank]
  return ()


def inputs(model: nnx.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
  """The share of +1 among the codes of each quantized input.

  Of codes wider than a bit: the share above the middle of the levels. Where a
  quantizer has no codes (it may still be off): of values above 0. Runs
  `model(*args, **kwargs)` on a twin, so nothing in the model changes. The twin
  is in the model's own mode: give `nnx.view(model, use_running_average=True,
  deterministic=True)` for evaluation, but note that batch statistics of a
  young model say little about what training sees.

  Call it in a compiled function, or outside.

  Args:
    model: any module.
    *args: what it is called with.
    **kwargs: the same by name.

  Returns:
    {path of the layer: float32 scalar}; what was not called is left out, the
    calls of one layer are averaged (the steps of an `nnx.RNN` too), and layers
    of a stack are PATH[0], ... The cell of an RNN that was not called has NaN.
    A layer that is otherwise the carry of a scan cannot be watched.
  """
  view = twin(nnx.clone(model))
  view(*args, **kwargs)
  return shares(nnx.state(view, nn.QuantizerSeen), quantized_inputs(model))


def shares(
  seen: nnx.State, found: Mapping[tuple[Any, ...], Input]
) -> dict[str, jax.Array]:
  """As `inputs`, of a state after a call.

  Args:
    seen: the state of a `twin`; what is no
      `nn.QuantizerSeen` is passed over.
    found: what `quantized_inputs` says of the model.
  """
  pairs = {
    path[:-1]: leaf[...]
    for path, leaf in nnx.to_flat_state(seen)
    if isinstance(leaf, nn.QuantizerSeen)
  }
  result: dict[str, jax.Array] = {}
  for path, each in found.items():
    if path in pairs:
      share = pairs[path][..., 0] / pairs[path][..., 1]
      for index in np.ndindex(share.shape):
        mark = f"[{','.join(map(str, index))}]" if index else ""
        result[each.label + mark] = share[index]
  return result


def warn_one_sided(
  model: nnx.Module, measured: Mapping[str, Any], stacklevel: int = 2
) -> bool:
  """Warns if a 1-bit input has one sign only: it then tells nothing.

  Python shows a warning of the same words from the same line once.

  Args:
    model: whose inputs they are, abstract or not.
    measured: what `inputs` gave, as numbers (after `jax.device_get`).
    stacklevel: as in `warnings.warn`.

  Returns:
    Whether there was one.

  Warns:
    errors.JbinWarning: naming the first such layer, the share and the cure.
  """
  widths = {each.label: each.bits for each in quantized_inputs(model).values()}
  wrong = {
    label: float(share)
    for label, share in measured.items()
    if widths.get(label.split("[")[0]) == 1 and float(share) in (0.0, 1.0)
  }
  if not wrong:
    return False
  label, share = next(iter(wrong.items()))
  others = len(wrong) - 1
  more = f" (and {others} more layer{'s' * (others > 1)})" if others else ""
  warnings.warn(
    f"the 1-bit input of {label}{more} is {share:.0%} +1, the same for every"
    " example, so it tells the layer nothing: put a batch norm before it,"
    " learn its threshold (jbin.quantizers.rsign), or take unsigned levels"
    " after a ReLU",
    errors.JbinWarning,
    stacklevel=stacklevel,
  )
  return True
