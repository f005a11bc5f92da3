"""ProxQuant: a proximal step pulls weights to their levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jbin import errors, references, schedules
from jbin.optimizers import _base, _latents

# The code's rate of 1e-4 an epoch, over its 300 epochs.
_STRENGTH = schedules.linear(0.0, 0.03)

Number = float | jax.Array


def prox_binary(w: jax.Array, reg: Number) -> jax.Array:
  """Toward +-1 by `reg`: the proximal operator of reg * sum ||w| - 1|.

  `sign(w) * (1 + soft(|w| - 1, reg))`, where
  `soft(d, r) = sign(d) * max(|d| - r, 0)`. 0 stays 0, which is as far from
  either level.

  Args:
    w: any shape, floating; the result has its dtype.
    reg: 0 or more, traced or not; 0 changes nothing, but for rounding.
  """
  return jnp.sign(w) * (1 + _soft(jnp.abs(w) - 1, reg))


def prox_ternary(w: jax.Array, reg: Number) -> jax.Array:
  """Toward the tensor's own three levels: `(w + reg * T(w)) / (1 + reg)`.

  T is `ternarize`. Arguments as `prox_binary`.
  """
  reg = jnp.asarray(reg, w.dtype)
  return (w + reg * ternarize(w)) / (1 + reg)


def prox_median(w: jax.Array, reg: Number) -> jax.Array:
  """Toward +-m by `reg`, m the median of |w| over the tensor.

  `sign(w) * (m + soft(|w| - m, reg))`; of an even number of weights m is the
  lower of the two in the middle. 0 counts as positive; the code draws its
  sign. Arguments as `prox_binary`.
  """
  size = jnp.abs(w)
  middle = _median(size)
  return _sign(w) * (middle + _soft(size - middle, reg))


def ternarize(w: jax.Array, delta: str = "mean") -> jax.Array:
  """Each weight becomes 0, or the mean of its side.

  `T(w) = 0 where |w| < D; the mean of all w >= D where w >= D; the mean of all
  w <= -D where w <= -D`. All zeros stay zeros.

  Args:
    w: any shape, floating; one tensor, one pair of levels.
    delta: D: "mean", 0.7 * mean |w|; "max", 0.05 * max |w|.

  Raises:
    errors.UserError: for another `delta`.
  """
  size = jnp.abs(w)
  rules = {"mean": lambda: 0.7 * jnp.mean(size), "max": lambda: _max(size)}
  if delta not in rules:
    raise errors.UnknownName("delta", delta, rules)
  least = rules[delta]()

  def level(side: jax.Array) -> jax.Array:
    total = jnp.sum(jnp.where(side, w, 0))
    return total / jnp.maximum(jnp.sum(side), 1).astype(w.dtype)

  up, down = w >= least, w <= -least
  return jnp.where(up, level(up), jnp.where(down, level(down), 0))


def _max(size: jax.Array) -> jax.Array:
  return 0.05 * jnp.max(size)


def _soft(d: jax.Array, reg: Number) -> jax.Array:
  reg = jnp.asarray(reg, d.dtype)
  return jnp.sign(d) * jnp.maximum(jnp.abs(d) - reg, 0)


def _sign(w: jax.Array) -> jax.Array:
  return jnp.where(w < 0, -1, 1).astype(w.dtype)


def _median(size: jax.Array) -> jax.Array:
  return jnp.sort(size, axis=None)[(size.size - 1) // 2]


def _binarize(w: jax.Array) -> jax.Array:
  return _sign(w) * _median(jnp.abs(w))


def _same(w: jax.Array) -> jax.Array:
  """Three levels that are there already, but for rounding, stay."""
  return jnp.where(w > 0, jnp.max(w), jnp.where(w < 0, jnp.min(w), 0))


Operator = Callable[[jax.Array, Number], jax.Array]
Rounding = Callable[[jax.Array], jax.Array]

# Name -> proximal operator, rounding at the freeze, the same ever after.
_KINDS: dict[str, tuple[Operator, Rounding, Rounding]] = {
  "binary": (prox_binary, _sign, _sign),
  "ternary": (prox_ternary, ternarize, _same),
  "median": (prox_median, _binarize, _binarize),
}


class ProxQuantState(NamedTuple):
  """Whether the weights are frozen: a boolean scalar."""

  frozen: jax.Array


@_base.REGISTRY.register
@_base.plays("after")
@references.cites("proxquant")
def proxquant(
  kind: str = "binary",
  strength: schedules.Hyper = _STRENGTH,
  clip: float = 1.0,
  freeze: float = 2 / 3,
  learning_rate: schedules.Hyper = 1.0,
  mask: _base.Mask = None,
) -> optax.GradientTransformationExtraArgs:
  """ProxQuant: a proximal step after each update, then frozen levels.

  Changes the update u so that `w + u` is
  `clip(prox(w + u, learning_rate * strength), -1, 1)`, which grows harder;
  from progress `freeze` on, w is at its levels and stays: `sign(w)` (0: +1),
  `ternarize(w)` or, for "median", `median |w| * sign(w)`, of each layer. Put
  it last in a chain. There is no straight-through gradient: the forward pass
  takes w itself (`quantizers.noop` marks it).

  A weight ends where it should but for one rounding of a float32 sum; frozen
  ones are exact from the second update on.

  Args:
    kind: "binary", "ternary" or "median".
    strength: 0 or more, a number or a schedule that grows; the code's is
      1e-4 times the epoch, 0.03 at the end of 300.
    clip: the bound; 0: none.
    freeze: progress, 0 to 1, at which weights freeze; above 1: never.
    learning_rate: of the steps before it: a config's own. 1: `strength` has it
      in it already.
    mask: which parameters; see `Mask`. None: all.

  Reference: Bai et al., 2019 (arXiv 1810.00861).

  Raises:
    errors.UserError: for another `kind`, or a negative `clip`.
  """
  if kind not in _KINDS:
    raise errors.UnknownName("kind of proxquant", kind, _KINDS)
  if not clip >= 0:
    raise errors.UserError(f"proxquant: clip is {clip}; it must be 0 or more")
  prox, rounded, same = _KINDS[kind]
  begin = schedules.switch(freeze)

  def init(params: Any) -> ProxQuantState:
    del params
    return ProxQuantState(jnp.zeros((), jnp.bool))

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    progress: jax.Array | None = None,
    **extra: Any,
  ) -> tuple[Any, ProxQuantState]:
    del extra
    reg = schedules.value(strength, progress)
    reg = reg * schedules.value(learning_rate, progress)
    frozen = state.frozen
    if freeze <= 1:
      frozen = schedules.value(begin, progress) > 0

    def pulled(w: jax.Array, u: jax.Array, here: Any) -> jax.Array:
      # Statistics of a tensor in float32, whatever its dtype.
      wide = w.astype(jnp.promote_types(w.dtype, jnp.float32))
      there = _base.moved(w, u).astype(wide.dtype)
      target = _latents.each(here, lambda x: prox(x, reg), there)
      if clip:
        target = jnp.clip(target, -clip, clip)
      if freeze <= 1:
        stay = jnp.where(
          state.frozen,
          _latents.each(here, same, wide),
          _latents.each(here, rounded, wide),
        )
        target = jnp.where(frozen, stay, target)
      return _base.toward(w, target)

    updates = _base.steer(updates, params, mask, pulled)
    return updates, ProxQuantState(frozen)

  return optax.GradientTransformationExtraArgs(init, update)
