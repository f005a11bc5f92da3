"""What the models of this folder and the papers' sheets share."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


def abstract(make: Callable[..., M], *args: Any, **kwargs: Any) -> M:
  """`make(*args, rngs=..., **kwargs)` without its arrays."""

  def build() -> M:
    # One key for all parameters: counting them is most of the tracing time.
    key = jax.random.key(0)
    rngs = types.SimpleNamespace(
      params=lambda: key,
      dropout=lambda: key,
      split=nnx.Rngs(0).split,  # stacks of blocks have streams of their own
    )
    return make(*args, rngs=rngs, **kwargs)

  return nnx.eval_shape(build)
