"""What student and teacher are compared by, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, tasks
from tests.tasks.taps import taps

close = lambda got, want: np.testing.assert_allclose(got, want, 2e-5, 1e-7)


def _direction(a, b):
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  return np.linalg.norm((a / np.linalg.norm(a) - b / np.linalg.norm(b)).ravel())


def _scores(x, y):
  x, y = (np.asarray(part, np.float64) for part in (x, y))
  return np.einsum("bqhd,bkhd->bhqk", x, y) / np.sqrt(x.shape[-1])


def test_direction_distance_knows_no_length():
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in "ab")
  close(tasks.direction_distance(a, b), _direction(a, b))
  close(tasks.direction_distance(1e3 * a, b), _direction(a, b))
  close(tasks.direction_distance(a, -a), 2.0)
  # A step along the tensor itself changes nothing.
  gradient = jax.grad(tasks.direction_distance)(a, b)
  assert abs(float((gradient * a).sum())) < 1e-6
  half = tasks.direction_distance(a.astype(jnp.bfloat16), b)
  assert half.dtype == jnp.float32


@pytest.mark.parametrize("other", ["same", "zero"])
def test_direction_distance_has_no_nan(other):
  a = jnp.arange(4.0)
  b = a if other == "same" else jnp.zeros(4)
  for pair in ((a, b), (b, a), (b, b)):
    value, gradients = jax.value_and_grad(tasks.direction_distance, (0, 1))(
      *pair
    )
    close(value, 1.0 if (pair[0] != pair[1]).any() else 0.0)
    for gradient in gradients:
      assert np.isfinite(gradient).all()


def test_similarity_and_what_masks_have_made():
  x = taps(0).query
  got = tasks.similarity(x)
  close(got[1], _scores(x[1], x[1]))
  scores = jnp.asarray([-1e4, -100.0, -99.0, 3.0])
  np.testing.assert_array_equal(tasks.unmasked(scores), [0, 0, -99, 3])


def test_similarity_loss_is_summed_over_layers_and_factors():
  a, b = taps(0), taps(1)
  want = sum(
    _direction(_scores(x[i], x[i]), _scores(y[i], y[i]))
    for x, y in ((a.query, b.query), (a.key, b.key), (a.value, b.value))
    for i in range(2)
  )
  close(jax.jit(tasks.similarity_loss)(a, b), want)


def test_hidden_loss_by_direction_and_squared():
  a, b = taps(0), taps(1)
  pairs = list(zip(a.hidden, b.hidden, strict=True))
  close(tasks.hidden_loss(a, b), sum(_direction(*pair) for pair in pairs))
  squared = np.mean([np.square(x - y).mean() for x, y in pairs])
  close(tasks.hidden_loss(a, b, "squared"), squared)


def test_scores_loss_leaves_padding_out():
  a, b = taps(0), taps(1)
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
  gap = [_scores(a.query[i], a.key[i]) - _scores(b.query[i], b.key[i])
         for i in range(2)]  # fmt: skip
  close(tasks.scores_loss(a, b), sum(np.square(part).mean() for part in gap))
  seen = [np.square(part * mask[:, None, None]).mean() for part in gap]
  close(tasks.scores_loss(a, b, jnp.asarray(mask)), sum(seen))


LOSSES = {
  "similarity": tasks.similarity_loss,
  "direction": tasks.hidden_loss,
  "squared": lambda *args, **named: tasks.hidden_loss(
    *args, distance="squared", **named
  ),
  "scores": tasks.scores_loss,
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
def test_examples_that_do_not_count(name):
  a, b = taps(0), taps(1)
  first = lambda t: t._replace(
    **{n: getattr(t, n)[:, :2] for n in t._fields[1:5]}
  )
  weight = jnp.asarray([1.0, 1.0, 0.0])
  got = LOSSES[name](a, b, weight=weight)
  close(got, LOSSES[name](first(a), first(b)))


@each_loss
def test_a_deeper_teacher_is_asked_about_every_other_layer(name):
  a, b = taps(0), taps(1, depth=4)
  picked = b._replace(
    hidden=b.hidden[::2],
    **{n: getattr(b, n)[1::2] for n in ("query", "key", "value")},
  )
  close(LOSSES[name](a, b), LOSSES[name](a, picked))
  with pytest.raises(errors.UserError, match=r"2 layers cannot .* of 3"):
    LOSSES[name](a, taps(1, depth=3))


@each_loss
def test_only_the_student_is_differentiated(name):
  a, b = taps(0), taps(1)
  mine, theirs = jax.grad(LOSSES[name], (0, 1))(a, b)
  assert max(float(abs(x).max()) for x in mine if x is not None) > 0
  assert not any(np.any(x) for x in theirs if x is not None)


@each_loss
def test_shapes_that_cannot_be_compared(name):
  text = r"compares the student's \(.*\) with the teacher's \("
  with pytest.raises(errors.UserError, match=text):
    LOSSES[name](taps(0), taps(1, heads=3))
