"""Where in a computation the first value arises that is not finite.

The program is evaluated again, equation by equation, and each value that is not
finite remembers its cause: the equation that made it of others, or the argument
that had it already. What the result's cause is, is the answer. So an infinity
that is meant (the -inf of a mask) is blamed only if it gets through to the
result, and a NaN that a `where` throws away is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jbin.train import causes, sharding


@dataclasses.dataclass(frozen=True)
class Found:
  """A result that is not finite.

  Attributes:
    result: its position among the results.
    cause: the first of the causes of such results, those of NaN before others.
  """

  result: int
  cause: causes.Cause


def first_bad(
  function: Callable[..., Any],
  *args: Any,
  parameters: Sequence[int] = (0,),
) -> str | None:
  """What made the result of `function(*args)` not finite; None: it is finite.

  Loops, branches, `jit`, `remat`, `custom_vjp` and `custom_jvp` are gone into,
  a scan trip by trip; any other equation is evaluated as a whole. It takes the
  memory of a program that is not fused, and seconds to minutes.

  Args:
    function: takes trees of arrays and returns one; it is traced.
    *args: arrays, on any mesh.
    parameters: which of `args` hold parameters; layers are named by them.
  """
  found = trace(function, *args, parameters=parameters)
  return found.cause.said if found else None


def trace(
  function: Callable[..., Any],
  *args: Any,
  parameters: Sequence[int] = (0,),
) -> Found | None:
  """As `first_bad`, and which result it is."""
  program = jax.make_jaxpr(function)(*args)
  leaves = [
    known
    for i, arg in enumerate(args)
    for known in _leaves(arg, i in parameters)
  ]
  made = causes.Walk().run(program.jaxpr, program.consts, leaves)
  bad = [
    (-known.state, known.cause.order, i, known.cause)
    for i, known in enumerate(made)
    if known.cause is not None
  ]
  if not bad:
    return None
  *_, result, cause = min(bad, key=lambda item: item[:3])
  return Found(result, cause)


def why(
  objective: Callable[[Any, Any], Any],
  params: Any,
  batch: Mapping[str, Any],
  *,
  spike: float = 0.0,
  norm: float = 0.0,
) -> str:
  """One sentence: why the guard does not take a training step.

  Args:
    objective: (params, batch) -> (loss, what else is measured), as it is
      differentiated.
    params: what by.
    batch: arrays by name.
    spike: times `norm` that the gradient's norm may be; 0: any.
    norm: its running mean before this step; 0: none is known.
  """
  if said := first_bad(objective, params, batch):
    return said
  slope = jax.grad(objective, has_aux=True)
  found = trace(lambda p, b: slope(p, b)[0], params, batch)
  if found is None and spike * norm > 0:
    sizes = jax.device_get(_squares(slope(params, batch)[0]))
    total = sum(sizes.values()) ** 0.5
    if total > spike * norm:
      most = max(sizes, key=lambda name: sizes[name])
      return (
        f"the norm of the gradient is {total:.3g}, over guard.spike={spike:g}"
        f" times its running mean, {norm:.3g}; most of it is that of '{most}'"
      )
  if found is None:
    given = [*_leaves(params, True), *_leaves(batch, False)]
    for cause in (known.cause for known in given):
      if cause:  # a sign hides it, and the update does not
        return f"{cause.said}; the loss and all gradients are finite with it"
    return (
      "computed once more, one operation at a time, the loss and all gradients"
      " are finite: the optimizer's update is not, or XLA's rounding differs"
    )
  name = sharding.path_names(params)[found.result].replace(".", "/")
  return (
    f"the loss is finite, and the gradient of '{name}' is not:"
    f" {found.cause.said}"
  )


def _squares(grads: Any) -> dict[str, Any]:
  """The squared norm of each gradient, in float32."""
  names = [name.replace(".", "/") for name in sharding.path_names(grads)]
  squares = [
    jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(grads)
  ]
  return dict(zip(names, squares, strict=True))


def _leaves(tree: Any, is_parameter: bool) -> list[causes.Known]:
  names = [name.replace(".", "/") for name in sharding.path_names(tree)]
  return [
    causes.argument(name, leaf, is_parameter)
    for name, leaf in zip(names, jax.tree.leaves(tree), strict=True)
  ]
