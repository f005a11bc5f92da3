"""What one update did to the latent weights of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import errors, nn, quantizers, references, schedules, views
from jbin.watch import _indicators, _paths

Numbers = dict[str, jax.Array]
"""Name -> float32 scalar."""

SHARES = ("flip_ratio", "beyond_clip", "zero_gradient")
SUMS = ("estimating_error", "gradient_instability")


@references.cites("larq", "reste")
def measure(
  model: nnx.Module,
  before: nnx.State,
  grads: nnx.State,
  after: nnx.State,
  o: float | jax.Array = 3.0,
) -> dict[str, Numbers]:
  """What one update did, for each layer with latent weights (`nn.latents`).

  * `flip_ratio`: share of codes that differ between before and after; of
    signs, where a 1-bit quantizer gives no codes. Left out for wider ones
    without codes.
  * `beyond_clip`: share of latents with `|w| > c` after the update, where
    gradients end: c is the quantizer's `window`. Left out where it has none:
    gradients pass everywhere, or other numbers than the latents are compared.
  * `zero_gradient`: share of gradients that are exactly 0.
  * `estimating_error`: that of ReSTE, after the update; 1 bit only.
  * `gradient_instability`: that of ReSTE.
  * `scale_mean`, `scale_min`, `scale_max`: of the scales after the update;
    left out without codes, or where the scale is 1 throughout.
  * `weights`: how many there are.

  Call it in the compiled step, or outside. Nothing is drawn or changed; a
  kernel that is `delayed` is watched as if it were on already. In a stack of
  layers, ReSTE's two are summed over the layers.

  Args:
    model: gives the layers, and what their quantizers measure and are told.
    before: the parameters before the update, `nnx.state(model, nnx.Param)`.
    grads: the gradients at `before`, as `nnx.grad` or `jax.grad` gives them;
      layers whose kernel has none (it is not trained) are left out.
    after: the parameters after the update.
    o: the power of ReSTE's estimator.

  Returns:
    {path of the layer: {name: float32 scalar}}, in the model's order. Under
    `jax.jit` the order is lost.

  Raises:
    errors.UserError: if a kernel has a gradient, and is not in `before` and
      `after`.

  Reference: Larq's `FlipRatio`; Wu et al., 2023 (arXiv 2308.06689). Differs
  from Larq in: its metric is the running mean over the updates so far.
  """
  old, new = (_quantizers(model, state) for state in (before, after))
  pick = lambda state: dict(nnx.to_flat_state(state))
  weights, slopes, results = pick(before), pick(grads), pick(after)
  for path in old:
    if path in slopes and not (path in weights and path in results):
      raise errors.UserError(
        f"watch.measure: {_paths.label(path, '')} has a gradient, but is not"
        " in `before` and `after`; take all three of the same parameters:"
        " nnx.state(model, wrt)"
      )
  return {
    _paths.label(path, "kernel"): _layer(
      (old[path], new[path]),
      (weights[path][...], results[path][...]),
      slopes[path][...],
      o,
    )
    for path in old
    if path in slopes
  }


def total(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """All layers together: shares of all weights, and sums of ReSTE's two.

  Args:
    layers: what `measure` gave, arrays or numbers.

  Returns:
    {name: number}, for what at least one layer has.
  """
  found: dict[str, Any] = {}
  for name in SHARES:
    have = [layer for layer in layers.values() if name in layer]
    if have:
      count = sum(layer["weights"] for layer in have)
      weighted = sum(layer["weights"] * layer[name] for layer in have)
      found[name] = weighted / count
  for name in SUMS:
    have = [layer for layer in layers.values() if name in layer]
    if have:
      found[name] = sum(layer[name] for layer in have)
  return found


def _quantizers(
  model: nnx.Module, params: nnx.State
) -> dict[tuple[Any, ...], nn.Quantizer]:
  """The quantizers of latent weights, evaluating, with these parameters."""
  twin = nnx.clone(model)
  nnx.update(twin, params)
  twin = views.view(twin, use_running_average=True)
  found = nn.latents(twin)
  for part in found.values():
    while isinstance(part.spec, quantizers.delayed):
      part.spec = part.spec.quantizer
  return found


def _layer(
  parts: tuple[nn.Quantizer, nn.Quantizer],
  weights: tuple[jax.Array, jax.Array],
  grad: jax.Array,
  o: float | jax.Array,
) -> Numbers:
  """The numbers of a layer, or of a stack of layers."""
  told = (nnx.Param, nn.QuantizerStat, schedules.Progress)
  graph, old, rest = nnx.split(parts[0], told, ...)
  new = nnx.split(parts[1], told, ...)[1]

  def one(old: Any, new: Any, was: Any, now: Any, grad: Any) -> Numbers:
    held = [nnx.merge(graph, state, rest, copy=True) for state in (old, new)]
    return _numbers(held, (was, now), grad, o)

  rank = parts[0].rank
  depth = 0 if rank is None else grad.ndim - rank
  for _ in range(depth):
    one = jax.vmap(one)
  numbers = one(old, new, *weights, grad)
  join = dict.fromkeys(SUMS, jnp.sum)
  join |= {"scale_min": jnp.min, "scale_max": jnp.max}
  whole = {
    name: join.get(name, jnp.mean)(number) for name, number in numbers.items()
  }
  return {"weights": jnp.float32(grad.size), **whole}


def _numbers(
  parts: list[nn.Quantizer],
  weights: tuple[jax.Array, jax.Array],
  grad: jax.Array,
  o: float | jax.Array,
) -> Numbers:
  was, now = (part(w) for part, w in zip(parts, weights, strict=True))
  found: Numbers = {}
  if was.codes is not None and now.codes is not None:
    found["flip_ratio"] = _share(was.codes != now.codes)
  elif now.bits == 1:
    found["flip_ratio"] = _share((was.value > 0) != (now.value > 0))
  window = _window(parts[1])
  if window is not None and (now.bits == 1 or now.levels == (-1, 1)):
    found["beyond_clip"] = _share(jnp.abs(weights[1]) > window)
  found["zero_gradient"] = _share(grad == 0)
  if now.bits == 1:
    found["estimating_error"] = _indicators.estimating_error(weights[1], o)
  found["gradient_instability"] = _indicators.gradient_instability(grad)
  if now.scale is not None:
    scale = now.scale.astype(jnp.float32)
    found["scale_mean"] = scale.mean()
    found["scale_min"] = scale.min()
    found["scale_max"] = scale.max()
  return found


def _share(mask: jax.Array) -> jax.Array:
  """The share that is true; counted in whole numbers, so exact to 2^31."""
  return mask.sum(dtype=jnp.int32).astype(jnp.float32) / mask.size


def _window(part: nn.Quantizer) -> Any:
  """Half the width of where gradients pass; None: they pass everywhere."""
  limit = part.spec.window
  if limit is None:
    return None
  progress = None if part.progress is None else part.progress[...]
  return schedules.value(limit, progress)
