"""Schedules against plain numpy, and as a traced program sees them."""

import dataclasses
import inspect
from collections.abc import Callable

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from jax import lax

from jbin import errors, nn, quantizers, schedules
from tests import programs


@dataclasses.dataclass(frozen=True)
class Row:
  """A schedule, its formula in float64, and where it does not move."""

  make: Callable[[], schedules.Schedule]
  formula: Callable[[float], float]
  flat: tuple[tuple[float, float], ...] = ()
  jumps: tuple[float, ...] = ()


def _share(p, begin, until):
  return np.clip((p - begin) / (until - begin), 0, 1)


def _warmup_linear(p):
  if p < 0.2:
    return 0.3 * p / 0.2
  return 0.3 - 0.29 * _share(p, 0.2, 0.9)


def _cosine(p):
  if p < 0.1:
    return 0.3 * p / 0.1
  return 0.01 + (0.3 - 0.01) * (1 + np.cos(np.pi * _share(p, 0.1, 0.9))) / 2


ROWS = {
  "constant": [
    Row(lambda: schedules.constant(0.7), lambda p: 0.7, ((0.0, 1.0),))
  ],
  "linear": [
    Row(lambda: schedules.linear(2, -1), lambda p: 2 - 3 * p),
    Row(
      lambda: schedules.linear(1.0, 5.0, begin=0.25, until=0.75),
      lambda p: 1 + 4 * _share(p, 0.25, 0.75),
      ((0.0, 0.25), (0.75, 1.0)),
    ),
    # PokeBNN's learning rate is 0 for the last 50 of 800 units.
    Row(
      lambda: schedules.linear(6.4e-4, 0.0, until=750 / 800),
      lambda p: 6.4e-4 * (1 - _share(p, 0, 750 / 800)),
      ((750 / 800, 1.0),),
    ),
    Row(
      lambda: schedules.linear(0.0, 1.0, begin=0.5, until=0.5),
      lambda p: float(p > 0.5),
      ((0.0, 0.49), (0.51, 1.0)),
      jumps=(0.5,),
    ),
  ],
  "warmup_linear": [
    Row(
      lambda: schedules.warmup_linear(0.3, 0.01, warmup=0.2, until=0.9),
      _warmup_linear,
      ((0.9, 1.0),),
    ),
    Row(lambda: schedules.warmup_linear(2.0, warmup=0.0), lambda p: 2 - 2 * p),
  ],
  "cosine": [
    Row(
      lambda: schedules.cosine(0.3, 0.01, warmup=0.1, until=0.9),
      _cosine,
      ((0.9, 1.0),),
    ),
    Row(lambda: schedules.cosine(2.0), lambda p: 1 + np.cos(np.pi * p), ()),
  ],
  "exponential": [
    Row(
      lambda: schedules.exponential(0.1, 10.0, begin=0.2, until=0.8),
      lambda p: 0.1 * 100 ** _share(p, 0.2, 0.8),
      ((0.0, 0.2), (0.8, 1.0)),
    )
  ],
  "piecewise": [
    Row(
      lambda: schedules.piecewise([0.3, 0.6], (1.0, -2.0, 5.0)),
      lambda p: (1.0, -2.0, 5.0)[(p >= 0.3) + (p >= 0.6)],
      ((0.0, 0.29), (0.31, 0.59), (0.61, 1.0)),
      jumps=(0.3, 0.6),
    )
  ],
  "switch": [
    Row(
      lambda: schedules.switch(0.4, before=3, after=7),
      lambda p: 7 if p >= 0.4 else 3,
      ((0.0, 0.39), (0.4, 1.0)),
      jumps=(0.4,),
    )
  ],
  "quarter_cosine": [
    Row(
      lambda: schedules.quarter_cosine(1.0, 3.0),
      lambda p: 3 - 2 * np.cos(np.pi * p / 2),
    )
  ],
  "growth": [
    Row(
      lambda: schedules.growth(0.85, 0.99),
      lambda p: 0.85 + 0.14 * (np.exp(p) - 1) / (np.e - 1),
    )
  ],
  "staircase": [
    Row(
      lambda: schedules.staircase(9, 18),
      lambda p: np.floor(9 + 9 * p),
      ((0.0, 0.11), (0.12, 0.22), (0.9, 0.99)),
      jumps=tuple(k / 9 for k in range(1, 9)),
    ),
    Row(
      lambda: schedules.staircase(3, 1),
      lambda p: np.floor(3 - 2 * p),
      ((0.01, 0.49), (0.51, 0.99)),
      jumps=(0.0, 0.5, 1.0),
    ),
  ],
}
MEMBERS = [
  pytest.param(row, id=f"{name}-{i}")
  for name, rows in ROWS.items()
  for i, row in enumerate(rows)
]
members = pytest.mark.parametrize("row", MEMBERS)
GRID = np.linspace(0, 1, 201, dtype=np.float32)


def test_every_schedule_has_a_row():
  assert set(schedules.REGISTRY) == set(ROWS)


def _close(row, progress, got):
  at = np.asarray(progress, np.float64)
  # A jump's place is exact in float32 only; its own test is further down.
  keep = np.ones(at.shape, bool)
  for jump in row.jumps:
    keep &= abs(at - jump) > 1e-6
  want = np.array([row.formula(float(p)) for p in at])
  np.testing.assert_allclose(
    np.asarray(got)[keep], want[keep], rtol=2e-6, atol=2e-6
  )


@members
def test_formula_alone_mapped_scanned_and_rematerialised(row):
  schedule = row.make()

  @jax.jit
  def run(grid):
    scanned = lax.scan(lambda c, p: (c, schedule(p)), None, grid)[1]
    remat = jax.vmap(jax.checkpoint(schedule))(grid)
    return jax.vmap(schedule)(grid), scanned, remat, schedule(grid)

  for got in run(GRID):
    assert got.dtype == jnp.float32
    _close(row, GRID, got)


@members
def test_a_schedule_is_traced_once(row):
  schedule = row.make()
  run = programs.Jit(schedule)

  @hypothesis.settings(deadline=None, max_examples=30, database=None)
  @hypothesis.given(st.floats(0, 1, width=32))
  @hypothesis.example(0.0)
  @hypothesis.example(1.0)
  def formula_holds(p):
    got = run(np.float32(p))
    assert got.shape == ()
    _close(row, [np.float32(p)], [got])

  formula_holds()
  assert run.traces == 1


@members
def test_flat_outside_its_range(row):
  schedule = row.make()
  for low, high in row.flat:
    values = schedule(np.linspace(low, high, 7, dtype=np.float32))
    # The edge itself, given in float64, may round to either side.
    np.testing.assert_array_equal(values[1:-1], np.asarray(values[1]))


@members
def test_gradient_in_progress_is_finite(row):
  slopes = jax.vmap(jax.grad(row.make()))(GRID)
  assert np.isfinite(slopes).all()


@members
def test_equal_arguments_make_equal_schedules(row):
  first, second = row.make(), row.make()
  assert first == second
  assert hash(first) == hash(second)
  assert repr(first) == repr(second)
  name = first.name
  space = {name: getattr(schedules, name)}
  assert eval(repr(first), space) == first
  others = [m.values[0].make() for m in MEMBERS]
  assert sum(other == first for other in others) == 1


def test_a_schedule_is_a_static_argument():
  run = programs.Jit(schedules.value, static_argnums=0)
  for end in (1.0, 2.0):
    assert run(schedules.linear(0, end), 0.5) == end / 2
    assert run(schedules.linear(0, end), 0.25) == end / 4
  assert run.traces == 2


def test_a_number_is_its_own_value():
  assert schedules.value(3, None) == 3
  assert schedules.value(0.5, 0.1) == 0.5


def test_a_schedule_without_progress_is_an_error():
  with pytest.raises(errors.UserError, match=r"linear\(.*needs a progress"):
    schedules.value(schedules.linear(0, 1), None)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: schedules.piecewise([0.5], [1.0])(0.1), "one value more"),
    (lambda: schedules.exponential(0.0, 1.0)(0.1), "positive ends"),
    (lambda: schedules.progress_at(1, 0), "steps must be positive"),
  ],
)
def test_bad_arguments_are_user_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()


def test_wrong_arguments_are_refused_at_once():
  with pytest.raises(TypeError):
    schedules.linear(1)
  with pytest.raises(TypeError):
    schedules.linear(1, 2, unknown=3)


def test_factories_keep_their_doc_string_and_signature():
  names = list(inspect.signature(schedules.linear).parameters)
  assert names == ["start", "end", "begin", "until"]
  assert schedules.linear.__doc__.startswith("From `start` to `end`")


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100, 999, 4096, 124800])
def test_a_switch_flips_exactly_at_its_step(steps):
  """Over all steps, whether written as a quotient or by `progress_at`."""
  every = np.arange(steps + 1)
  progress = np.array([schedules.progress_at(k, steps) for k in every])
  assert progress.dtype == np.float32
  assert (np.diff(progress) > 0).all()
  # A quotient in a config is float64; it rounds to the same threshold.
  np.testing.assert_array_equal(np.float32(every / steps), progress)
  some = {0, 1, steps // 7, steps // 3, 3 * steps // 5, steps - 1, steps}
  for k in sorted(some | {min(7500, steps), min(7800, steps)}):
    for at in (k / steps, schedules.progress_at(k, steps)):
      np.testing.assert_array_equal(
        schedules.switch(at)(progress), every >= k, err_msg=f"{k} / {steps}"
      )
      np.testing.assert_array_equal(
        schedules.piecewise([at], [0.0, 1.0])(progress), every >= k
      )


class _Net(nnx.Module):
  """Schedules at several depths, one of them in a stack of layers."""

  def __init__(self, rngs):
    quantizer = quantizers.sign(schedules.linear(2.0, 1.0))
    self.plain = nn.Linear(3, 3, rngs=rngs)
    self.layers = nnx.List(
      [nn.Linear(3, 3, input_quantizer=quantizer, rngs=rngs)]
    )

    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(rngs):
      return nn.Linear(3, 3, kernel_quantizer=quantizer, rngs=rngs)

    self.stack = stack(rngs.split(4))


def _progress(tree):
  is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
  return [
    leaf[...]
    for leaf in jax.tree.leaves(tree, is_leaf=is_variable)
    if isinstance(leaf, schedules.Progress)
  ]


@pytest.mark.parametrize("kind", ["module", "state"])
def test_set_progress_reaches_every_depth(kind):
  net = _Net(nnx.Rngs(0))
  graph, state = nnx.split(net)
  before = nnx.to_pure_dict(nnx.state(net, nnx.Param))

  @programs.Jit
  def at(state, progress):
    state = schedules.set_progress(state, progress)
    if kind == "module":
      return nnx.state(
        schedules.set_progress(nnx.merge(graph, state), progress)
      )
    return state

  for progress in (0.0, 0.25, 1.0):
    new = at(state, np.float32(progress))
    shapes = sorted(leaf.shape for leaf in _progress(new))
    assert shapes == [(), (4,)]
    for leaf in _progress(new):
      assert leaf.dtype == jnp.float32
      np.testing.assert_array_equal(leaf, np.float32(progress))
    kept = nnx.to_pure_dict(nnx.state(nnx.merge(graph, new), nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, kept, before)
  assert at.traces == 1
  assert not any(leaf.any() for leaf in _progress(net))


def test_set_progress_on_a_module_returns_one_that_runs():
  net = schedules.set_progress(_Net(nnx.Rngs(0)), 0.5)
  assert isinstance(net, _Net)
  assert net.layers[0].input_quantizer.progress[...] == 0.5
  assert net.layers[0](jnp.ones((2, 3))).shape == (2, 3)


def test_a_layer_sees_its_progress():
  """The window of sign's gradient narrows from 2 to 1."""
  layer = nn.Linear(
    1,
    1,
    input_quantizer=quantizers.sign(schedules.linear(2.0, 1.0)),
    rngs=nnx.Rngs(0),
  )
  graph, state = nnx.split(layer)

  @programs.Jit
  def gradient(state, progress, x):
    now = nnx.merge(graph, schedules.set_progress(state, progress))
    return jax.grad(lambda x: now(x).sum())(x)

  x = jnp.array([[1.25], [1.75], [2.25]])
  for progress, passed in ((0.0, 2), (0.5, 1), (1.0, 0)):
    got = gradient(state, np.float32(progress), x)
    assert int((got != 0).sum()) == passed
  assert gradient.traces == 1
