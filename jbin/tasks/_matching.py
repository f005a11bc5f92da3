"""What distillation compares: answers, hidden states, patterns, scores.

What looks inside takes what `model(..., taps=True)` gives of the student and
of the teacher (`models.Outputs`), and gives a float32 scalar for the whole
batch. A teacher with r times the layers of the student is asked about every
r-th: its hidden states 0, r, 2 r, ..., its attentions r - 1, 2 r - 1, ... .
Only the student's side is differentiated.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from jbin import errors
from jbin.tasks import _base

Distance = Literal["direction", "squared", "tokens"]

# What a mask makes of a score: such entries count as 0 on both sides.
MASKED = -100.0


class Taps(Protocol):
  """The part of `models.Outputs` that is compared."""

  @property
  def hidden(self) -> jax.Array:
    """(layers + 1, b, tokens, features)."""
    ...

  @property
  def query(self) -> jax.Array:
    """(layers, b, tokens, heads, head_dim), as are key and value."""
    ...

  @property
  def key(self) -> jax.Array:
    """See `query`."""
    ...

  @property
  def value(self) -> jax.Array:
    """See `query`."""
    ...


def soft_cross_entropy(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  temperature: float = 1.0,
) -> jax.Array:
  """Cross entropy of the student against the teacher's probabilities.

  Forward L = -(T^2 / N) sum_n sum_c softmax(t / T)_nc log_softmax(s / T)_nc.
  Backward dL/ds = (T / N) (softmax(s / T) - softmax(t / T)), dL/dt = 0. The
  factor T^2 keeps the gradient's size when T changes; T = 1 is PokeBNN's loss.

  Args:
    student_logits: (n, classes), any float dtype; computed in float32.
    teacher_logits: (n, classes).
    temperature: T > 0.

  Returns:
    float32 scalar.
  """
  return jnp.mean(soft_losses(student_logits, teacher_logits, temperature))


def soft_losses(
  student: jax.Array,
  teacher: jax.Array,
  temperature: float = 1.0,
  *,
  class_mean: bool = False,
) -> jax.Array:
  """The loss of each example, (n,) float32; see `soft_cross_entropy`.

  Args:
    student: logits (n, classes).
    teacher: logits (n, classes).
    temperature: T > 0.
    class_mean: whether to divide by the number of classes, as a mean over all
      entries does (BiBERT, BiPFT).
  """
  student = student.astype(jnp.float32) / temperature
  teacher = teacher.astype(jnp.float32) / temperature
  p = jax.nn.softmax(jax.lax.stop_gradient(teacher))
  each = -jnp.sum(p * jax.nn.log_softmax(student), axis=-1)
  each = each * temperature**2
  return each / student.shape[-1] if class_mean else each


def direction_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """How far two tensors point in different directions (BiBERT).

  Forward `d = || a / ||a|| - b / ||b|| ||`, norms of all entries together,
  unsquared, from 0 to 2. Backward that of the formula; where `d` is 0 the
  gradient is 0. A tensor of zeros has no direction: 0 in place of `a / ||a||`,
  without a gradient.

  Args:
    a: any shape; computed in float32.
    b: the same shape.

  Returns:
    float32 scalar.

  Reference: Qin et al., 2022 (arXiv 2203.06390).
  """
  return _norm(_unit(a) - _unit(b))


def _norm(x: jax.Array) -> jax.Array:
  """The 2-norm of all entries; its gradient at 0 is 0."""
  square = jnp.sum(jnp.square(x))
  some = square > 0
  return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def _unit(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.float32)
  length = _norm(x)
  return jnp.where(length > 0, x / jnp.where(length > 0, length, 1.0), 0.0)


def similarity(x: jax.Array) -> jax.Array:
  """How alike tokens are: `x x^T / sqrt(head_dim)` of each head.

  Args:
    x: (..., tokens, heads, head_dim); computed in float32.

  Returns:
    (..., heads, tokens, tokens).
  """
  return _scores(x, x)


def _scores(x: jax.Array, y: jax.Array) -> jax.Array:
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  products = jnp.einsum("...qhd,...khd->...hqk", x, y)
  return products / math.sqrt(x.shape[-1])


def unmasked(scores: jax.Array) -> jax.Array:
  """Scores with 0 in place of what is -100 or less: what masks have made."""
  return jnp.where(scores > MASKED, scores, 0.0)


def tapped(
  who: str, model: _base.Model, given: tuple[Any, ...], term: str
) -> Any:
  """`model(*given, taps=True)`.

  Raises:
    errors.UserError: if the model has no taps, or no attention where the term
      compares that.
  """
  takes = inspect.signature(model).parameters
  if "taps" not in takes:
    raise errors.UserError(
      f"{term}_weight looks inside the {who}, and {type(model).__name__} takes"
      " no taps=True; take a model that does, such as vit or bert, or leave"
      f" {term}_weight out"
    )
  found = model(*given, taps=True)
  if term in ("similarity", "scores") and found.query is None:
    raise errors.UserError(
      f"{term}_weight compares attention, and the {who}"
      f" ({type(model).__name__}) has none; leave it out, or compare its hidden"
      " states by hidden_weight"
    )
  return found


def similarity_loss(
  student: Taps, teacher: Taps, weight: jax.Array | None = None
) -> jax.Array:
  """BiBERT's direction-matching distillation.

  The sum over all layers, and over queries, keys and values, of the
  `direction_distance` between the student's and the teacher's `similarity`,
  with `unmasked` entries. It is a distance of whole batches: it depends on
  their size, and on padding.

  Args:
    student: differentiated.
    teacher: with as many heads and tokens.
    weight: (b,), 0 for the examples that do not count; None: all do.

  Reference: Qin et al., 2022 (arXiv 2203.06390).
  """

  def distance(pair: tuple[jax.Array, ...]) -> jax.Array:
    a, b = (unmasked(similarity(x)) for x in pair)
    return direction_distance(a, b)

  losses = [
    _by_layer(distance, _counted(a, weight), _counted(b, weight))
    for a, b in _attentions("similarity", student, teacher)
  ]
  return functools.reduce(jnp.add, losses)


def scores_loss(
  student: Taps,
  teacher: Taps,
  token_mask: jax.Array | None = None,
  weight: jax.Array | None = None,
) -> jax.Array:
  """The squared difference of attention scores, summed over layers (TinyBERT).

  Scores are `query key^T / sqrt(head_dim)`, in floating point, before softmax;
  of a layer the mean over all of them is taken. The scores of padding count as
  0 on both sides.

  Args:
    student: differentiated.
    teacher: with as many heads and tokens.
    token_mask: (b, tokens), 0 where there is only padding.
    weight: (b,), 0 for the examples that do not count; None: all do.

  Reference: Jiao et al., 2020 (arXiv 1909.10351).
  """
  pairs = list(_attentions("scores", student, teacher))
  shape = pairs[0][0].shape[1:3]
  keep = jnp.ones(shape[1:]) if token_mask is None else token_mask
  keep = jnp.broadcast_to(keep, shape)[:, None, None, :] > 0

  def distance(quad: tuple[jax.Array, ...]) -> jax.Array:
    query, key, query_wanted, key_wanted = quad
    gap = _scores(query, key) - _scores(query_wanted, key_wanted)
    return _mean(jnp.where(keep, jnp.square(gap), 0.0), weight)

  (query, query_wanted), (key, key_wanted) = pairs[:2]
  return _by_layer(distance, query, key, query_wanted, key_wanted)


def hidden_loss(
  student: Taps,
  teacher: Taps,
  distance: Distance = "direction",
  weight: jax.Array | None = None,
) -> jax.Array:
  """The distance of hidden states, that of the embedding included.

  "direction": the sum over states of `direction_distance` (BiBERT); "squared":
  the mean over states, and all their entries, of the squared difference
  (BiPFT); "tokens": without the last state, which enters no block, the sum over
  states of the mean over tokens of || a / ||a|| - b / ||b|| ||^2, norms of a
  token's features (OneBit).

  Args:
    student: differentiated.
    teacher: with as many tokens and features.
    distance: see above.
    weight: (b,), 0 for the examples that do not count; None: all do.
  """
  ratio = _ratio(student.hidden.shape[0] - 1, teacher.hidden.shape[0] - 1)
  a, b = student.hidden, jax.lax.stop_gradient(teacher.hidden[::ratio])
  _check_shapes("hidden", a, b)
  if distance == "tokens":
    gap = jax.vmap(lambda a, b: _mean(_unit_gaps(a, b), weight))
    return jnp.sum(gap(a[:-1], b[:-1]))
  if distance == "direction":
    pair = _counted(a, weight), _counted(b, weight)
    return jnp.sum(jax.vmap(direction_distance)(*pair))
  gap = a.astype(jnp.float32) - b.astype(jnp.float32)
  return jnp.mean(jax.vmap(lambda x: _mean(jnp.square(x), weight))(gap))


def _unit_gaps(a: jax.Array, b: jax.Array) -> jax.Array:
  """The squared distance of each token's directions, (b, tokens)."""
  unit = jax.vmap(jax.vmap(_unit))
  return jnp.sum(jnp.square(unit(a) - unit(b)), axis=-1)


def _mean(x: jax.Array, weight: jax.Array | None) -> jax.Array:
  """Of all entries of (b, ...), of the examples that count."""
  if weight is None:
    return jnp.mean(x)
  each = jnp.mean(x, range(1, x.ndim))
  return jnp.sum(each * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def _counted(x: jax.Array, weight: jax.Array | None) -> jax.Array:
  """(layers, b, ...) with zeros for the examples that do not count."""
  if weight is None:
    return x
  shape = (1, -1, *(1,) * (x.ndim - 2))
  return jnp.where(jnp.reshape(weight, shape) > 0, x, 0)


def _by_layer(
  distance: Callable[[Any], jax.Array], *arrays: jax.Array
) -> jax.Array:
  """The sum over the first axis; no matrix outlives its layer."""
  return jnp.sum(jax.lax.map(jax.checkpoint(distance), arrays))


def _attentions(
  what: str, student: Taps, teacher: Taps
) -> list[tuple[jax.Array, jax.Array]]:
  """(student's, teacher's) of queries, keys and values, by layer."""
  pairs = []
  for name in ("query", "key", "value"):
    a, b = getattr(student, name), getattr(teacher, name)
    ratio = _ratio(a.shape[0], b.shape[0])
    b = jax.lax.stop_gradient(b[ratio - 1 :: ratio])
    # A token's features may differ: similarities do not have them.
    _check_shapes(what, a[..., 0], b[..., 0])
    pairs.append((a, b))
  return pairs


def _ratio(student: int, teacher: int) -> int:
  """How many times deeper the teacher is.

  Raises:
    errors.UserError: if that is no whole number.
  """
  if teacher % student:
    raise errors.UserError(
      f"a student of {student} layers cannot be matched with a teacher of"
      f" {teacher}; take one with a multiple of the student's layers, or leave"
      " hidden_weight, similarity_weight and scores_weight out"
    )
  return teacher // student


def _check_shapes(what: str, a: jax.Array, b: jax.Array) -> None:
  """Raises where student and teacher cannot be compared.

  Raises:
    errors.UserError: with both shapes.
  """
  if a.shape != b.shape:
    axes = "layers, examples, tokens, " + (
      "features" if what == "hidden" else "heads"
    )
    raise errors.UserError(
      f"{what}_weight compares the student's {a.shape} with the teacher's"
      f" {b.shape} ({axes}); take a teacher of the student's shape, or leave"
      f" {what}_weight out"
    )
