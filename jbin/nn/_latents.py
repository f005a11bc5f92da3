"""Which weights of a model are latent: quantized each time they are used."""

from __future__ import annotations

from typing import Any

from flax import nnx

from jbin.nn import _quantizer

_SUFFIX = "_quantizer"


def latents(model: nnx.Module) -> dict[tuple[Any, ...], _quantizer.Quantizer]:
  """The latent weights of a model, and what quantizes each.

  A weight is latent where a layer has a variable NAME (kernel, embedding) and
  a quantizer NAME_quantizer. Optimizers mask by it (Bop flips latents only),
  monitors and reports ask it. `quantizer(variable[...])` is what the layer
  multiplies with; in a stack of layers made by `nnx.vmap` both have the
  stack's leading axis, so map over it there.

  Args:
    model: any module, abstract (`nnx.eval_shape`) or not.

  Returns:
    {path: quantizer}, the paths as `nnx.to_flat_state(nnx.state(model))` has
    them, in its order. A variable that several layers share is there once,
    with the quantizer of the first that has one.
  """
  paths = {}
  layers = []
  for path, node in nnx.iter_graph(model):
    if isinstance(node, nnx.Variable):
      paths[id(node)] = path
    elif isinstance(node, nnx.Module):
      layers.append(node)
  found: dict[tuple[Any, ...], _quantizer.Quantizer] = {}
  for layer in layers:
    for name, part in vars(layer).items():
      if not isinstance(part, _quantizer.Quantizer):
        continue
      weight = getattr(layer, name.removesuffix(_SUFFIX), None)
      if name.endswith(_SUFFIX) and isinstance(weight, nnx.Variable):
        found.setdefault(paths[id(weight)], part)
  order = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
  return {path: found[path] for path in order if path in found}
