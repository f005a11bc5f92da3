"""The soft cross entropy, its gradient, and the task with all its terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, schedules, tasks
from tests.tasks.taps import model, taps


def _logits(seed):
  rng = np.random.default_rng(seed)
  return jnp.asarray(2 * rng.normal(size=(5, 7)), jnp.float32)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value_and_gradient_are_the_formulas(temperature):
  student, teacher = _logits(0), _logits(1)
  loss = lambda s, t: tasks.soft_cross_entropy(s, t, temperature)
  value, (ds, dt) = jax.value_and_grad(loss, (0, 1))(student, teacher)
  p = jax.nn.softmax(teacher / temperature)
  q = jax.nn.softmax(student / temperature)
  want = -(temperature**2) * np.mean(np.sum(p * np.log(q), axis=1))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(ds, temperature / 5 * (q - p), atol=1e-6)
  assert not np.asarray(dt).any()


def _both(progress=None, **weights):
  batch = {
    "image": _logits(0),
    "label": jnp.arange(5, dtype=jnp.int32),
    "mask": jnp.asarray([1, 1, 1, 1, 0], jnp.float32),
  }
  task = tasks.distillation("runs/teacher", **weights)
  teacher = lambda x: x[:, ::-1]
  return task.loss(lambda x: x, batch, teacher, progress)


def test_each_weight_may_be_a_schedule():
  soft = _both()[0]
  hard = _both(soft_weight=0.0, hard_weight=1.0)[0]
  want = 0.75 * soft + 0.25 * hard
  mixed = _both(soft_weight=0.75, hard_weight=0.25)[0]
  np.testing.assert_allclose(mixed, want, rtol=1e-6)
  falls, grows = schedules.linear(1.0, 0.0), schedules.linear(0.0, 1.0)
  mixed = _both(0.25, soft_weight=falls, hard_weight=grows)[0]
  np.testing.assert_allclose(mixed, want, rtol=1e-6)
  mean = _both(class_mean=True)[0]
  np.testing.assert_allclose(mean, soft / 7, rtol=1e-6)


def test_a_teachers_inside():
  """The terms alone are held by test_matching.py and golden vectors."""
  a, b = taps(0), taps(1)
  batch = {
    "tokens": jnp.zeros((3, 4), jnp.int32),
    "token_mask": jnp.asarray([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]),
    "label": jnp.asarray([0, 2, 1]),
  }

  def run(**weights):
    task = tasks.distillation("run", **weights)
    value, metrics = task.loss(model(a), batch, model(b))
    np.testing.assert_allclose(
      metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-5
    )
    return value, metrics

  plain = run()[0]
  parts = {
    "hidden": tasks.hidden_loss(a, b),
    "similarity": tasks.similarity_loss(a, b),
    "scores": tasks.scores_loss(a, b, batch["token_mask"]),
  }
  value, metrics = run(**{f"{name}_weight": 0.5 for name in parts})
  want = plain + 0.5 * sum(parts.values())
  np.testing.assert_allclose(value, want, rtol=1e-5)
  for name, part in parts.items():
    total, count = metrics[f"{name}_loss"]
    np.testing.assert_allclose(total / count, part, rtol=1e-5)
  squared = run(hidden_weight=1.0, hidden_distance="squared")[0]
  want = plain + tasks.hidden_loss(a, b, "squared")
  np.testing.assert_allclose(squared, want, rtol=1e-5)


def test_a_regression_comes_near_the_teacher_and_the_labels():
  x, labels = _logits(0)[:, :1], jnp.linspace(0, 5, 5)
  batch = {"image": x, "label": labels}
  run = lambda **weights: tasks.distillation("run", **weights).loss(
    lambda x: x, batch, lambda x: -x
  )
  soft, metrics = run()
  np.testing.assert_allclose(soft, jnp.square(2 * x).mean(), rtol=1e-6)
  hard = jnp.square(x[:, 0] - labels).mean()
  np.testing.assert_allclose(
    run(hard_weight=0.5)[0], soft + 0.5 * hard, rtol=1e-6
  )
  assert "agreement" not in metrics
  np.testing.assert_allclose(metrics["squared_error"][0] / 5, hard, rtol=1e-6)


@pytest.mark.parametrize("term", ["similarity", "scores"])
def test_models_without_attention_are_refused(term):
  """A state space has hidden states, and no queries."""
  task = tasks.distillation("run", **{f"{term}_weight": 1.0})
  batch = {"image": jnp.zeros((3, 2)), "label": jnp.zeros(3, jnp.int32)}
  state_space = taps(0)._replace(query=None, key=None, value=None)
  with pytest.raises(errors.UserError, match=f"{term}_weight compares attent"):
    task.loss(model(taps(1)), batch, model(state_space))


def test_models_without_taps_are_refused():
  batch = {"image": _logits(0), "label": jnp.zeros(5, jnp.int32)}
  task = tasks.distillation("run", similarity_weight=1.0)
  with pytest.raises(errors.UserError, match=r"inside the student.*taps=True"):
    task.loss(lambda x: x, batch, model(taps(0)))
  with pytest.raises(errors.UserError, match="similarity_weight looks inside"):
    task.loss(model(taps(0)), batch, lambda x: x)


def test_metrics():
  loss, metrics = _both()
  assert set(metrics) == {
    "loss",
    "cross_entropy",
    "agreement",
    "accuracy",
    "top5_accuracy",
  }
  assert all(float(count) == 4 for _, count in metrics.values())
  np.testing.assert_allclose(metrics["loss"][0] / 4, loss, rtol=1e-6)


def test_the_teacher_is_named_and_needed():
  task = tasks.distillation("runs/teacher", {"name": "resnet50"})
  assert task.teacher.workdir == "runs/teacher"
  assert task.teacher.model == {"name": "resnet50"}
  with pytest.raises(errors.UserError, match="pass teacher="):
    task.loss(lambda x: x, {"image": _logits(0), "label": jnp.zeros(5, int)})


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"teacher_workdir": ""}, r"name its run: --config\.task\.teacher_workdir"),
    ({"teacher_weights": "x"}, "it is not named; set it with its sizes"),
    ({"teacher_workdir": "x", "temperature": 0}, "temperature is 0; it must"),
    ({"teacher_workdir": "x", "hard_weight": -1}, "hard_weight is -1; it must"),
    ({"teacher_workdir": "x", "soft_weight": 0.0}, "every weight is 0: soft_w"),
    (
      {"teacher_workdir": "x", "hidden_distance": "l1"},
      "unknown hidden_distance 'l1'",
    ),
  ],
)
def test_arguments_out_of_range(kwargs, message):
  with pytest.raises(errors.UserError, match=message):
    tasks.distillation(**kwargs)


def test_every_task_is_registered_with_its_line():
  lines = dict(tasks.REGISTRY.describe())
  assert set(lines) == {
    "classification",
    "distillation",
    "language_model",
    "masked_lm",
  }
  assert all(lines.values())
