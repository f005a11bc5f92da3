"""Language models: the next token, bits per byte, a teacher's hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jbin import data, errors, schedules, tasks
from jbin.train import build, config as config_lib, making
from tests.tasks.taps import taps

WORDS = 7


def _batch(mask=None):
  rng = np.random.default_rng(0)
  batch = {
    "tokens": jnp.asarray(rng.integers(0, WORDS, (3, 4)), jnp.int32),
    "targets": jnp.asarray(
      [[1, 2, 0, 5], [0, -1, 3, 3], [6, 1, -1, 6]], jnp.int32
    ),
    "target_bytes": jnp.asarray([4.0, 2.5, 3.0]),
  }
  return batch if mask is None else {**batch, "mask": jnp.asarray(mask)}


def _shown(seed):
  rng = np.random.default_rng(seed + 10)
  words = jnp.asarray(rng.normal(size=(3, 4, WORDS)), jnp.float32)
  return taps(seed)._replace(logits=words)


def _model(found):
  return lambda tokens, *, taps=False: found if taps else found.logits


def _log_p(found):
  x = np.asarray(found.logits, np.float64)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _mean(metrics):
  return {name: float(s) / float(n) for name, (s, n) in metrics.items()}


def test_the_loss_is_of_the_tokens_that_are_predicted():
  batch, found = _batch(), _shown(0)
  loss, metrics = tasks.language_model().loss(_model(found), batch)
  targets, log_p = np.asarray(batch["targets"]), _log_p(found)
  asked = targets >= 0
  each = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][asked]
  np.testing.assert_allclose(loss, each.mean(), rtol=1e-6)
  mean = _mean(metrics)
  assert mean["loss"] == mean["cross_entropy"] == pytest.approx(each.mean())
  hits = np.asarray(log_p.argmax(-1) == targets)[asked]
  assert mean["accuracy"] == pytest.approx(hits.mean())
  assert float(metrics["accuracy"][1]) == 10
  bits = each.sum() / np.log(2) / 9.5
  assert mean["bits_per_byte"] == pytest.approx(bits, rel=1e-6)


def test_rows_that_do_not_count():
  task = tasks.language_model(
    teacher_workdir="run", hard_weight=0.5, hidden_weight=1.0
  )
  a, b = _shown(0), _shown(1)
  whole = _batch(np.array([1.0, 1.0, 0.0]))
  first = {name: x[:2] for name, x in _batch().items()}
  cut = lambda t: t._replace(logits=t.logits[:2], hidden=t.hidden[:, :2])
  got = task.loss(_model(a), whole, _model(b))
  want = task.loss(_model(cut(a)), first, _model(cut(b)))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  for name, value in _mean(want[1]).items():
    assert _mean(got[1])[name] == pytest.approx(value, rel=1e-5), name


def test_a_teacher_is_followed():
  batch, a, b = _batch(), _shown(0), _shown(1)
  targets, log_p = np.asarray(batch["targets"]), _log_p(a)
  asked = targets >= 0
  each = -(np.exp(_log_p(b)) * log_p).sum(-1)[asked]
  task = tasks.language_model(teacher_workdir="run")
  loss, metrics = task.loss(_model(a), batch, _model(b))
  np.testing.assert_allclose(loss, each.mean(), rtol=1e-6)
  mean = _mean(metrics)
  assert mean["soft_loss"] == pytest.approx(each.mean(), rel=1e-6)
  hard = mean["cross_entropy"]
  assert hard == pytest.approx(
    float(tasks.language_model().loss(_model(a), batch)[0])
  )
  same = (log_p.argmax(-1) == _log_p(b).argmax(-1))[asked].mean()
  assert mean["agreement"] == pytest.approx(same)
  both = tasks.language_model(
    teacher_workdir="run",
    hard_weight=schedules.linear(0.0, 1.0),
    soft_weight=0.5,
    hidden_weight=2.0,
  )
  loss, metrics = both.loss(_model(a), batch, _model(b), 0.25)
  more = 2 * _hidden(a, b)
  expected = 0.25 * hard + 0.5 * each.mean() + more
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert _mean(metrics)["hidden_loss"] == pytest.approx(more / 2, rel=1e-5)


def _hidden(a, b):
  """OneBit's distance of what enters the blocks."""
  unit = [
    np.asarray(x.hidden[:-1], np.float64)
    / np.linalg.norm(x.hidden[:-1], axis=-1, keepdims=True)
    for x in (a, b)
  ]
  return np.square(unit[0] - unit[1]).sum(-1).mean((1, 2)).sum()


def test_nothing_predicted_is_finite():
  batch = {
    **_batch(),
    "targets": jnp.full((3, 4), -1, jnp.int32),
    "target_bytes": jnp.zeros(3),
  }
  loss, metrics = tasks.language_model().loss(_model(_shown(0)), batch)
  assert float(loss) == 0.0
  assert all(float(s) == float(n) == 0 for s, n in metrics.values())


def test_small_losses_keep_their_digits():
  scores = jnp.zeros((1, 1, 3)).at[0, 0, 1].set(12.0) + 40.0
  batch = {
    "tokens": jnp.zeros((1, 1), jnp.int32),
    "targets": jnp.ones((1, 1), jnp.int32),
    "target_bytes": jnp.ones(1),
  }
  loss, _ = tasks.language_model().loss(lambda tokens: scores, batch)
  np.testing.assert_allclose(loss, np.log1p(2 * np.exp(-12.0)), rtol=1e-2)


def test_a_config_makes_its_batch_without_the_data():
  config = config_lib.from_mapping(
    {
      "steps": 1,
      "batch_size": 2,
      "optimizer": {"name": "adam", "learning_rate": 0.1},
      "model": {"name": "mamba2", "vocab_size": 300},
      "data": {"name": "text", "files": "nowhere.txt"},
      "task": {"name": "language_model"},
      "length": 12,
    }
  )
  found = build.sizes(config)
  assert isinstance(found, making.ByConfig)
  real = data.text(length=12)
  assert dict(found.features) == dict(real.features)
  (tokens,) = making.example(found)
  assert tokens.shape == (1, 12)


def test_errors():
  batch, model = _batch(), _model(_shown(0))
  task = tasks.language_model()
  taught = tasks.language_model(teacher_workdir="run")
  other = lambda tokens: jnp.zeros((3, 4, WORDS + 1))
  with pytest.raises(errors.UserError, match="has token_mask; it takes"):
    task.loss(model, {**batch, "token_mask": batch["tokens"]})
  with pytest.raises(errors.UserError, match="has no target_bytes; it"):
    task.loss(model, {name: batch[name] for name in ("tokens", "targets")})
  with pytest.raises(errors.UserError, match=r"the model gives \(3, 2\), and"):
    task.loss(lambda tokens: jnp.zeros((3, 2)), batch)
  with pytest.raises(errors.UserError, match="the model gives Taps, and"):
    task.loss(lambda tokens: _shown(0), batch)
  with pytest.raises(errors.UserError, match=r"the teacher gives \(3, 2\)"):
    taught.loss(model, batch, lambda tokens: jnp.zeros((3, 2)))
  with pytest.raises(errors.UserError, match="of 7 tokens and the teacher one"):
    taught.loss(model, batch, other)
  with pytest.raises(errors.UserError, match="pass teacher="):
    taught.loss(model, batch)
  for message, weights in (
    ("hard_weight is -1; it must", {"hard_weight": -1}),
    ("every weight is 0: hard_weight", {"hard_weight": 0.0}),
    ("soft_weight is of what a teacher", {"soft_weight": 1.0}),
    ("got two", {"teacher_workdir": "r", "teacher_weights": "w"}),
    ("set it with its sizes", {"teacher_weights": "w"}),
    (
      "every weight is 0: hard_weight, soft",
      {"teacher_workdir": "r", "soft_weight": 0.0},
    ),
  ):
    with pytest.raises(errors.UserError, match=message):
      tasks.language_model(**weights)


def test_a_teacher_may_be_a_name_alone():
  task = tasks.language_model(teacher_weights="DIR", teacher="llama_7b")
  assert task.teacher.model == {"name": "llama_7b"}
