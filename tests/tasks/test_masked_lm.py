"""Masked language models: which tokens count, the next sentence, a teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jbin import errors, models, tasks
from tests.tasks.taps import taps

WORDS = 7


def _batch(mask=None):
  rng = np.random.default_rng(0)
  batch = {
    "tokens": rng.integers(0, WORDS, (3, 4)),
    "targets": np.array([[-1, 2, -1, 5], [0, -1, -1, -1], [-1, -1, 6, 6]]),
    "label": np.array([0, 1, 1]),
  }
  batch = {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}
  return batch if mask is None else {**batch, "mask": jnp.asarray(mask)}


def _shown(seed):
  rng = np.random.default_rng(seed + 10)
  words = jnp.asarray(rng.normal(size=(3, 4, WORDS)), jnp.float32)
  return taps(seed, classes=2)._replace(token_logits=words)


def _model(found):
  def call(tokens, *, taps=False):
    del tokens
    pair = models.Predictions(found.logits, found.token_logits)
    return found if taps else pair

  return call


def _mean(metrics):
  return {name: float(s) / float(n) for name, (s, n) in metrics.items()}


def test_the_loss_is_of_hidden_words_and_of_the_next_sentence():
  batch, found = _batch(), _shown(0)
  loss, metrics = tasks.masked_lm().loss(_model(found), batch)
  cross = optax.softmax_cross_entropy_with_integer_labels
  asked = np.asarray(batch["targets"]) >= 0
  each = cross(found.token_logits, jnp.maximum(batch["targets"], 0))
  words = np.asarray(each)[asked].mean()
  pairs = np.asarray(cross(found.logits, batch["label"])).mean()
  np.testing.assert_allclose(loss, words + pairs, rtol=1e-6)
  mean = _mean(metrics)
  hits = np.asarray(found.token_logits.argmax(-1) == batch["targets"])
  assert mean["masked_lm_accuracy"] == pytest.approx(hits[asked].mean())
  assert float(metrics["masked_lm_loss"][1]) == asked.sum() == 5
  assert mean["masked_lm_loss"] == pytest.approx(words, rel=1e-5)
  assert mean["next_sentence_loss"] == pytest.approx(pairs, rel=1e-5)
  assert mean["loss"] == pytest.approx(float(loss), rel=1e-5)
  half, _ = tasks.masked_lm(0.5).loss(_model(found), batch)
  np.testing.assert_allclose(half, words + 0.5 * pairs, rtol=1e-6)


def test_examples_that_do_not_count():
  task = tasks.masked_lm(teacher_workdir="run")
  a, b = _shown(0), _shown(1)
  whole = _batch(np.array([1.0, 1.0, 0.0]))
  first = {name: x[:2] for name, x in _batch().items()}
  cut = lambda t: t._replace(
    logits=t.logits[:2], token_logits=t.token_logits[:2], hidden=t.hidden[:, :2]
  )
  got = task.loss(_model(a), whole, _model(b))
  want = task.loss(_model(cut(a)), first, _model(cut(b)))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  for name, value in _mean(want[1]).items():
    assert _mean(got[1])[name] == pytest.approx(value, rel=1e-5), name


def test_a_teacher_adds_two_terms():
  """Their values are held by golden vectors."""
  batch, a, b = _batch(), _shown(0), _shown(1)
  plain, _ = tasks.masked_lm().loss(_model(a), batch)
  task = tasks.masked_lm(teacher_workdir="run", soft_weight=2.0)
  loss, metrics = task.loss(_model(a), batch, _model(b))
  mean = _mean(metrics)
  more = 2 * mean["soft_loss"] + mean["hidden_loss"]
  np.testing.assert_allclose(loss, plain + more, rtol=1e-5)
  hidden = tasks.hidden_loss(a, b, "squared")
  assert mean["hidden_loss"] == pytest.approx(float(hidden), rel=1e-5)
  # Without hidden states no model need show its inside.
  blind = lambda found: functools.partial(_model(found), taps=False)
  task = tasks.masked_lm(teacher_workdir="run", hidden_weight=0.0)
  assert "hidden_loss" not in task.loss(blind(a), batch, blind(b))[1]


def test_a_batch_without_hidden_words_is_finite():
  batch = {**_batch(), "targets": jnp.full((3, 4), -1, jnp.int32)}
  loss, metrics = tasks.masked_lm(0.0).loss(_model(_shown(0)), batch)
  assert float(loss) == 0.0
  assert float(metrics["masked_lm_loss"][1]) == 0.0


def test_what_it_compares_with():
  assert tasks.masked_lm().targets == ("targets", "label")
  assert tasks.masked_lm(0.0).targets == ("targets",)
  assert tasks.masked_lm().teacher is None
  given = {"name": "bert_base", "pretraining": True}
  source = tasks.masked_lm(teacher_weights="bert", teacher=given).teacher
  assert (source.workdir, source.weights) == ("", "bert")


def test_errors():
  batch, model = _batch(), _model(_shown(0))
  del batch["label"]
  with pytest.raises(errors.UserError, match="next_sentence_weight=0"):
    tasks.masked_lm().loss(model, batch)
  with pytest.raises(errors.UserError, match="the model predicts no words"):
    tasks.masked_lm().loss(lambda tokens: jnp.zeros((3, 2)), _batch())
  with pytest.raises(errors.UserError, match="pass teacher="):
    tasks.masked_lm(teacher_workdir="run").loss(model, _batch())
  with pytest.raises(errors.UserError, match="got two"):
    tasks.masked_lm(teacher_workdir="run", teacher_weights="bert")
  with pytest.raises(errors.UserError, match=r"set it with its sizes"):
    tasks.masked_lm(teacher_weights="bert")
  for name, weights in (
    ("soft_weight is -1; it must", {"teacher_workdir": "r", "soft_weight": -1}),
    ("next_sentence_weight is -1", {"next_sentence_weight": -1}),
    ("and there is none", {"soft_weight": 1.0}),
    (
      "every weight is 0: soft_weight, hidden",
      {"teacher_workdir": "r", "soft_weight": 0.0, "hidden_weight": 0.0},
    ),
  ):
    with pytest.raises(errors.UserError, match=name):
      tasks.masked_lm(**weights)


def test_gradients_reach_every_head():
  batch, a = _batch(), _shown(0)

  def loss(logits, words):
    shown = a._replace(logits=logits, token_logits=words)
    return tasks.masked_lm().loss(_model(shown), batch)[0]

  dlogits, dwords = jax.grad(loss, (0, 1))(a.logits, a.token_logits)
  assert np.abs(dlogits).min() > 0
  learned = np.abs(dwords).sum(-1) > 0
  np.testing.assert_array_equal(learned, np.asarray(batch["targets"]) >= 0)
