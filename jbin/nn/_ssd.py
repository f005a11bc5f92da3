"""State-space duality: Mamba-2's recurrence, in chunks, by tokens, by one."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jbin import bits, errors, references

# Sums of decays are made in blocks of this many tokens, and between blocks.
_BLOCK = 16


@references.cites("mamba2")
def ssd(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  *,
  chunk: int = 256,
  state: jax.Array | None = None,
  precision: Any = None,
) -> tuple[jax.Array, jax.Array]:
  """Mamba-2's state space over a sequence, by products of matrices.

  Of each head, with the B and C of its group (heads side by side share one),

  `S_t = exp(dt_t a_t) S_{t-1} + (dt_t x_t) B_t^T`, `y_t = S_t C_t`,

  which is `ssd_scan`. Here a chunk of tokens is a masked attention without
  softmax, `y_i = sum_{j<=i} <C_i, B_j> exp(dt_{j+1} a_{j+1} + ... + dt_i a_i)
  dt_j x_j`, and what came before reaches it through the state at its start. One
  chunk after another, forward and backward: of the (chunk, chunk) matrices of
  all heads there are those of one chunk at a time, and backward they are made
  again. Time and memory are linear in the length.

  The exponents are sums without differences, and minus infinity above the
  diagonal before the exponential: neither value nor gradient overflows or is
  NaN, however strong the decay. A last chunk that is not full is filled up with
  `dt = 0`, which leaves the state as it is; so may a caller's padding be.

  Computed in float32 whatever the dtype of `x`, or in float64 if that is its.

  Args:
    x: (n, length, heads, head_dim); any length, 0 too.
    dt: (n, length, heads), the step sizes.
    a: (heads,), below 0, or anything that broadcasts to the shape of `dt`.
    b: (n, length, groups, state); groups divide heads.
    c: the same shape.
    chunk: tokens of a chunk.
    state: (n, heads, head_dim, state) to start from; None: zeros.
    precision: of the products.

  Returns:
    y, of the shape and dtype of `x`, and the state after the last token,
    float32 (float64).

  Raises:
    errors.UserError: if heads are no multiple of the groups, or a chunk has no
      token.

  Reference: Dao and Gu, 2024 (arXiv 2405.21060), section 6. Differs from the
  paper in: nothing but the order of sums.
  """
  if chunk < 1:
    raise errors.UserError(f"ssd: a chunk of {chunk} tokens; take 1 or more")
  n, length, heads, size = x.shape
  groups = _check_groups(heads, b.shape[-2])
  wide = _wide(x)
  dt, a = dt.astype(wide), jnp.broadcast_to(a.astype(wide), dt.shape)
  state = _start(state, x, b)
  chunk = max(min(chunk, length), 1)
  padded = length + -length % chunk
  shape = (n, groups, heads // groups)

  def cut(v: jax.Array, *last: int) -> jax.Array:
    """(n, length, ...) to (chunks, n, chunk, *last), zeros at the end."""
    pad = [(0, 0), (0, padded - length)] + [(0, 0)] * (v.ndim - 2)
    v = jnp.reshape(jnp.pad(v, pad), (n, padded // chunk, chunk, *last))
    return jnp.moveaxis(v, 1, 0)

  items = (
    cut(x, *shape[1:], size),
    cut(dt, *shape[1:]),
    cut(dt * a, *shape[1:]),
    cut(b, *b.shape[2:]),
    cut(c, *c.shape[2:]),
  )
  # Nothing but a chunk's inputs and the state at its start is kept for the
  # gradient; inside a loop there is nothing that XLA could merge.
  body = jax.checkpoint(
    functools.partial(_chunk, precision=precision), prevent_cse=False
  )
  first = jnp.reshape(state, (*shape, *state.shape[2:]))
  last, y = lax.scan(body, first, items)
  y = jnp.reshape(jnp.moveaxis(y, 0, 1), (n, padded, heads, size))
  y = y[:, :length]
  return y, jnp.reshape(last, state.shape)


@jax.named_scope("ssd")  # what a cost report calls its products
def _chunk(
  state: jax.Array, items: tuple[jax.Array, ...], *, precision: Any
) -> tuple[jax.Array, jax.Array]:
  """One chunk's end state and outputs.

  n examples, q tokens (i, j), g groups, h heads of one, p of a head, s of a
  state; x (n, q, g, h, p), dt and the log-decay (n, q, g, h), b and c
  (n, q, g, s), state (n, g, h, p, s).
  """
  x, dt, decay, b, c = items
  dtype, wide = x.dtype, state.dtype
  x, b, c = (v.astype(wide) for v in (x, b, c))
  einsum = functools.partial(jnp.einsum, precision=precision)
  x = dt[..., None] * x
  decay = jnp.moveaxis(decay, 1, -1)
  since = jnp.exp(jnp.cumsum(decay, -1))  # the chunk's start
  gone = _decays(decay)
  scores = einsum("nigs,njgs->ngij", c, b)
  y = einsum("nghij,njghp->nighp", scores[:, :, None] * gone, x)
  across = einsum("nigs,nghps->nighp", c, state)
  y = y + jnp.moveaxis(since, -1, 1)[..., None] * across
  left = jnp.moveaxis(gone[..., -1, :], -1, 1)  # to the chunk's end
  made = einsum("njghp,njgs->nghps", left[..., None] * x, b)
  state = since[..., -1, None, None] * state + made
  return state, y.astype(dtype)


@jax.custom_vjp
def _decays(a: jax.Array) -> jax.Array:
  """(..., q) to (..., i, j): exp(a_{j+1} + ... + a_i) for j <= i, else 0.

  A difference of two long sums would be inexact. From token j to token i of a
  later block it is j's way to the end of its block, past all blocks between,
  and i's from the start of its own; inside a block the sums are made one by
  one. So exponentials are taken of few sums, and the rest is their products.
  """
  q = a.shape[-1]
  block = min(_BLOCK, q)
  a = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, -q % block)])
  m = a.shape[-1] // block
  a = jnp.reshape(a, (*a.shape[:-1], m, block))
  inside = _sums(a)  # (..., block of both, i, j)
  into, out = jnp.exp(jnp.cumsum(a, -1)), jnp.exp(inside[..., -1, :])
  past = _sums(jnp.sum(a, -1))  # a block further than it should be
  past = jnp.pad(past, [(0, 0)] * (past.ndim - 2) + [(1, 0), (0, 0)])
  past = _lower(past[..., :-1, :], -1)
  # (..., block of i, i, block of j, j)
  after = past[..., :, :, None] * out[..., None, :, :]
  far = into[..., :, :, None, None] * after[..., :, None, :, :]
  same = _places(m, far.ndim, -4) == _places(m, far.ndim, -2)
  every = jnp.where(same, _lower(inside, 0)[..., :, :, None, :], far)
  size = m * block
  return jnp.reshape(every, (*a.shape[:-2], size, size))[..., :q, :q]


def _decays_forward(a: jax.Array) -> tuple[jax.Array, jax.Array]:
  y = _decays(a)
  return y, y


def _decays_backward(y: jax.Array, g: jax.Array) -> tuple[jax.Array]:
  """Of a_k: the sum of g y over all i >= k > j."""
  q = y.shape[-1]
  below = _places(q, y.ndim, -2) > _places(q, y.ndim, -1)
  each = jnp.where(below, g * y, 0)
  ends = jnp.sum(each, -1) - jnp.sum(each, -2)
  return (lax.cumsum(ends, ends.ndim - 1, reverse=True),)


_decays.defvjp(_decays_forward, _decays_backward)


def _lower(sums: jax.Array, k: int) -> jax.Array:
  """exp(sums) for j <= i + k, else 0: masked first, for a large sum's sake."""
  ndim, n = sums.ndim, sums.shape[-1]
  lower = _places(n, ndim, -1) <= _places(n, ndim, -2) + k
  return jnp.exp(jnp.where(lower, sums, -jnp.inf))


def _sums(a: jax.Array) -> jax.Array:
  """(..., k) to (..., i, j): a_{j+1} + ... + a_i for j < i, else 0."""
  ndim, k = a.ndim + 1, a.shape[-1]
  below = _places(k, ndim, -2) > _places(k, ndim, -1)
  return jnp.cumsum(jnp.where(below, a[..., :, None], 0), -2)


def _places(size: int, ndim: int, axis: int) -> jax.Array:
  """0, 1, 2, ... along an axis."""
  shape = [1] * ndim
  shape[axis] = size
  return jnp.reshape(jnp.arange(size), shape)


def ssd_scan(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  *,
  state: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The definition of `ssd`: one token after another, by `ssd_step`.

  Slow, and backward it keeps the state of every token. Arguments, results and
  errors are those of `ssd`, without chunks.
  """
  dt = dt.astype(_wide(x))
  a = jnp.broadcast_to(a, dt.shape)

  def one(state: jax.Array, items: Any) -> tuple[jax.Array, jax.Array]:
    x, dt, a, b, c = items
    y, state = ssd_step(x, dt, a, b, c, state)
    return state, y

  items = tuple(jnp.moveaxis(v, 1, 0) for v in (x, dt, a, b, c))
  state, y = lax.scan(one, _start(state, x, b), items)
  return jnp.moveaxis(y, 0, 1), state


@jax.named_scope("ssd_step")
def ssd_step(
  x: jax.Array,
  dt: jax.Array,
  a: jax.Array,
  b: jax.Array,
  c: jax.Array,
  state: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """One token of `ssd`: `S <- exp(dt a) S + (dt x) B^T`, `y = S C`.

  Args:
    x: (n, heads, head_dim).
    dt: (n, heads).
    a: (heads,), or (n, heads).
    b: (n, groups, state).
    c: the same shape.
    state: (n, heads, head_dim, state), float32 (float64).

  Returns:
    y, of the shape and dtype of `x`, and the new state.

  Raises:
    errors.UserError: if heads are no multiple of the groups.
  """
  n, heads, size = x.shape
  groups = _check_groups(heads, b.shape[-2])
  shape, wide = (n, groups, heads // groups), state.dtype
  dt = dt.astype(wide)
  decay = dt * jnp.broadcast_to(a.astype(wide), dt.shape)
  new = jnp.reshape(dt[..., None] * x.astype(wide), (*shape, size))
  old = jnp.reshape(state, (*shape, *state.shape[2:]))
  decay = jnp.reshape(decay, (*shape, 1, 1))
  # The mark is what a count of multiplications charges for.
  old = bits.mark(jnp.exp(decay) * old, "state_decay")
  now = old + jnp.einsum("nghp,ngs->nghps", new, b.astype(wide))
  y = jnp.einsum("nghps,ngs->nghp", now, c.astype(wide))
  return jnp.reshape(y, x.shape).astype(x.dtype), jnp.reshape(now, state.shape)


def _wide(x: jax.Array) -> Any:
  return jnp.promote_types(x.dtype, jnp.float32)


def _start(state: jax.Array | None, x: jax.Array, b: jax.Array) -> jax.Array:
  """The given state, or zeros, in the dtype of the computation."""
  if state is None:
    n, _, heads, size = x.shape
    return jnp.zeros((n, heads, size, b.shape[-1]), _wide(x))
  return state.astype(_wide(x))


def _check_groups(heads: int, groups: int) -> int:
  """The number of groups.

  Raises:
    errors.UserError: if they do not share the heads evenly.
  """
  if groups < 1 or heads % groups:
    raise errors.UserError(
      f"ssd: {heads} heads cannot share the B and C of {groups} groups; take a"
      " number of groups that divides the heads"
    )
  return groups
