"""How a config's model is made: sizes from the data, start values, rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import data, errors, tasks
from jbin.train import calling, config as config_lib, sharding, start

if TYPE_CHECKING:
  from jbin import convert

# The model's argument may be larger than what the data needs.
_AT_LEAST = frozenset({"max_length", "vocab_size"})
_RULES = 0x72756C65  # any number that no other use of the seed folds in


class Sizes(Protocol):
  """What a model is made for: a data set, or the sizes in a config alone."""

  @property
  def name(self) -> str:
    """For messages."""
    ...

  @property
  def features(self) -> Mapping[str, data.Feature]:
    """The arrays of one example."""
    ...

  @property
  def offers(self) -> Mapping[str, Any]:
    """Arguments of the model that follow."""
    ...


@dataclasses.dataclass(frozen=True)
class ByConfig:
  """The sizes that a config says; no data is needed to be there."""

  name: str
  features: Mapping[str, data.Feature]
  offers: Mapping[str, Any]


def batch_of(
  features: Mapping[str, data.Feature], size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """An abstract batch of `size` examples."""
  return {
    name: jax.ShapeDtypeStruct((size, *feature.shape), feature.dtype)
    for name, feature in features.items()
  }


def example(sizes: Sizes) -> tuple[jax.ShapeDtypeStruct, ...]:
  """What the model is called with for one example, abstract."""
  return tasks.inputs(batch_of(sizes.features, 1))


@dataclasses.dataclass(frozen=True)
class Maker:
  """Makes a model anew, low-bit by rules; `maker` makes one.

  Called without arguments it starts from `seed`; called with a key, which may
  be traced, from that. `jax.random.key(seed)` gives the same bits, and one
  compiled program then serves all seeds.

  Attributes:
    named: the model and its arguments.
    offered: arguments that it is given where the config does not set them.
    seed: of its parameters and its dropout.
    plan: what rules do to it; None: nothing.
  """

  named: config_lib.Named
  offered: Mapping[str, Any]
  seed: int
  plan: convert.Plan | None = None

  def float(
    self,
    key: jax.Array | None = None,
    values: Mapping[str, Any] | None = None,
  ) -> nnx.Module:
    """The model as it is written, with `values` by path, as far as it has."""
    from jbin import models

    rngs = nnx.Rngs(self.seed if key is None else key)
    model = calling.call(models.REGISTRY, self.named, rngs=rngs, **self.offered)
    return start.put(model, values or {})

  def __call__(
    self,
    key: jax.Array | None = None,
    values: Mapping[str, Any] | None = None,
  ) -> nnx.Module:
    """The model after the rules; what kernels start scales with is loaded.

    Args:
      key: of the random numbers; None: `seed`.
      values: what parameters start from, by path; of both forms.
    """
    model = self.float(key, values)
    if self.plan is None:
      return model
    key = jax.random.key(self.seed) if key is None else key
    # Streams apart from the model's own: rules change none of its draws.
    rngs = nnx.Rngs(jax.random.fold_in(key, _RULES))
    return start.put(self.plan.apply(model, rngs=rngs), values or {})


def abstract(make: Maker) -> nnx.Module:
  """The model that it makes, without arrays.

  Raises:
    errors.UserError: if its arguments, or those of the rules, make none.
  """
  named, what = make.named, f"model '{make.named.name}'"
  with calling.follows(f"{what} cannot be made", named.kwargs):
    model = nnx.eval_shape(make)
  state = nnx.state(model)
  for name, leaf in zip(
    sharding.path_names(state), jax.tree.leaves(state), strict=True
  ):
    if any(size < 1 for size in leaf.shape):
      raise errors.UserError(
        f"{what} has an array {name} of shape {leaf.shape} with"
        f" {calling.listed(named.kwargs)}; its sizes must be 1 or more"
      )
  return model


def maker(
  named: config_lib.Named,
  rules: config_lib.Named | None = None,
  *,
  seed: int = 0,
  dtype: str = "float32",
  made_for: Sizes | None = None,
) -> Maker:
  """How the model of a config is made.

  Args:
    named: the model and its arguments.
    rules: the rule set and its arguments; None: none.
    seed: of its parameters and its dropout.
    dtype: of its computation, where the model takes one.
    made_for: gives arguments (`num_classes`, ...) where the config does not,
      is compared with them where it does, and has the example on which rules
      see the order of the layers.

  Raises:
    errors.UserError: if the arguments are wrong or do not fit the data, or a
      rule takes nothing.
  """
  if "dtype" in named.kwargs:
    raise errors.UserError(
      f"model '{named.name}' takes its dtype from the config; set"
      f" --config.dtype={named.kwargs['dtype']}"
    )
  offered: dict[str, Any] = {"dtype": jnp.dtype(dtype)}
  if made_for is not None:
    offered |= made_for.offers
    _check_offers(named, made_for)
  written = Maker(named, offered, seed)
  if rules is None or rules.name == "none":
    return written
  inputs = () if made_for is None else example(made_for)
  model = abstract(written)
  with calling.follows(
    f"model '{named.name}' with rules '{rules.name}' cannot be called",
    {**named.kwargs, **rules.kwargs},
  ):
    chosen = plan_of(model, rules, inputs)
  return dataclasses.replace(written, plan=chosen)


def _check_offers(named: config_lib.Named, made_for: Sizes) -> None:
  """Raises if the config's arguments contradict the data."""
  for key, needed in made_for.offers.items():
    given = named.kwargs.get(key, needed)
    if given == needed or (key in _AT_LEAST and given >= needed):
      continue
    least = " or more" if key in _AT_LEAST else ""
    raise errors.UserError(
      f"model '{named.name}' has {key}={given}, but data '{made_for.name}'"
      f" needs {needed}{least}; set --config.model.{key}={needed}"
    )


def plan_of(
  model: nnx.Module, rules: config_lib.Named, inputs: tuple[Any, ...]
) -> convert.Plan:
  """What the rules of a config do to its model (abstract).

  Args:
    model: abstract or not.
    rules: the rule set and its arguments.
    inputs: what it is called with, abstract; empty: not known.

  Raises:
    errors.UserError: as `convert.plan`.
  """
  from jbin import convert

  chosen = calling.call(convert.REGISTRY, rules)
  return convert.plan(model, chosen, *inputs)
