"""The soft cross entropy, its gradient, and the task around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors, schedules, tasks


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


def _both(hard_weight, progress=None):
  batch = {
    "image": _logits(0),
    "label": jnp.arange(5, dtype=jnp.int32),
    "mask": jnp.asarray([1, 1, 1, 1, 0], jnp.float32),
  }
  task = tasks.distillation("runs/teacher", hard_weight=hard_weight)
  teacher = lambda x: x[:, ::-1]
  return task.loss(lambda x: x, batch, teacher, progress)


def test_hard_weight_mixes_and_may_be_a_schedule():
  soft, hard = _both(0.0)[0], _both(1.0)[0]
  np.testing.assert_allclose(
    _both(0.25)[0], 0.75 * soft + 0.25 * hard, rtol=1e-6
  )
  grows = schedules.linear(0.0, 1.0)
  np.testing.assert_allclose(_both(grows, 0.25)[0], _both(0.25)[0], rtol=1e-6)


def test_metrics():
  loss, metrics = _both(0.0)
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
    ({"teacher_workdir": "x", "temperature": 0}, "temperature is 0; it must"),
    ({"teacher_workdir": "x", "hard_weight": 2}, "hard_weight is 2; it must"),
  ],
)
def test_arguments_out_of_range(kwargs, message):
  with pytest.raises(errors.UserError, match=message):
    tasks.distillation(**kwargs)


def test_every_task_is_registered_with_its_line():
  lines = dict(tasks.REGISTRY.describe())
  assert set(lines) == {"classification", "distillation"}
  assert all(lines.values())
