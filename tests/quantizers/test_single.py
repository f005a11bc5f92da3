"""What single quantizers promise beside the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import bits, errors, quantizers, schedules
from jbin.quantizers import _base, _pokebnn
from tests import programs
from tests.quantizers import formulas
from tests.quantizers.formulas import SHAPE

SCHEDULED = {
  "sign.clip": quantizers.sign,
  "poke_activation.bound": quantizers.poke_activation,
  "ste_tern.threshold": quantizers.ste_tern,
  "swish_sign.beta": quantizers.swish_sign,
  "twn.threshold": lambda share: quantizers.twn(threshold=share),
}


@pytest.mark.parametrize("make", SCHEDULED.values(), ids=SCHEDULED)
def test_a_schedule_is_traced_once_and_equals_its_number(make):
  schedule = schedules.linear(2.0, 1.0)
  assert make(schedule).scheduled
  assert not make(1.5).scheduled

  def pair(quantizer, x, progress=None):
    run = lambda x: quantizer(x, progress=progress).value
    return run(x), jax.grad(lambda x: run(x).sum())(x)

  scheduled = programs.Jit(lambda x, p: pair(make(schedule), x, p))
  x = formulas.tensor()
  for progress in (0.0, 0.25, 0.5, 1.0):
    got = scheduled(x, np.float32(progress))
    want = pair(make(2.0 - progress), x)
    for mine, number in zip(got, want, strict=True):
      np.testing.assert_allclose(mine, number, rtol=1e-6, atol=1e-7)
  assert scheduled.traces == 1
  with pytest.raises(errors.UserError, match="needs a progress"):
    make(schedule)(x)


def test_delayed_switches_without_recompiling():
  quantizer = quantizers.delayed(quantizers.poke_weight(1), 7800 / 124800)
  run = programs.Jit(lambda x, p: quantizer(x, progress=p).value)
  x = formulas.tensor()
  on = quantizers.poke_weight(1)(x).value
  for step, want in ((0, x), (7799, x), (7800, on), (124800, on)):
    progress = schedules.progress_at(step, 124800)
    np.testing.assert_array_equal(run(x, progress), want)
  assert run.traces == 1


def test_gate():
  x = formulas.tensor()
  on = quantizers.xnor()(x)
  gated = jax.jit(lambda a, x: quantizers.gate(a, quantizers.xnor()(x), x))
  for active, want in ((True, on.value), (False, x)):
    got = gated(jnp.asarray(active), x)
    assert got.codes is None
    assert got.scale is None
    assert got.bits == 1
    np.testing.assert_allclose(got.value, want, rtol=1e-6)
  said = [tag for tag, _ in programs.tags(gated, jnp.asarray(True), x)]
  assert set(said) == {bits.BitsTag(1)}


def _statistics(quantizer, batches, progresses):
  """The running statistics in numpy."""
  over = (0, 1) if quantizer.per_channel else (0, 1, 2)
  size = SHAPE[-1] if quantizer.per_channel else 1
  now = {name: np.zeros(size) for name in _pokebnn.STATISTICS}
  now["bounds"] = np.full(size, -1.0)
  for x, progress in zip(batches, progresses, strict=True):
    there = x != 0
    count = there.sum(over)
    with np.errstate(invalid="ignore", divide="ignore"):
      batch = {
        "mean": x.sum(over) / count,
        "mean_abs": abs(x).sum(over) / count,
        "mean_sq": (x**2).sum(over) / count,
        "minimum": np.where(there, x, np.inf).min(over),
        "maximum": np.where(there, x, -np.inf).max(over),
      }
    for name, value in batch.items():
      new = now[name] + 0.1 * (value - now[name])
      now[name] = np.where(count > 0, new, now[name])
    if progress >= quantizer.start and (now["bounds"] < 0).all():
      now["bounds"] = np.maximum(abs(now["maximum"]), abs(now["minimum"]))
  return now


@pytest.mark.parametrize("per_channel", [True, False])
def test_ema_bounds_measures_then_freezes(per_channel):
  quantizer = quantizers.ema_bounds(4, start=0.5, per_channel=per_channel)
  rng = np.random.default_rng(1)
  # Channel 3 has nothing but zeros, and other entries are zeros here and there.
  batches = [
    formulas.tensor() * rng.normal() + (formulas.tensor() != 0)
    for _ in range(5)
  ]
  batches = [x * (rng.random(SHAPE) < 0.8) for x in batches]
  batches = [x.astype(np.float32) for x in batches]
  progresses = [0.0, 0.25, 0.5, 0.75, 1.0]
  update = programs.Jit(quantizer.update)
  state = quantizer.statistics(SHAPE[-1])
  bounds = []
  for step, (x, progress) in enumerate(zip(batches, progresses, strict=True)):
    state = update(x, progress=np.float32(progress), **state)
    want = _statistics(quantizer, batches[: step + 1], progresses[: step + 1])
    assert set(state) == set(want)
    for name, value in want.items():
      np.testing.assert_allclose(
        state[name], value, rtol=1e-5, atol=1e-6, err_msg=name
      )
    bounds.append(np.asarray(state["bounds"]))
    floats = quantizer(x, **state).value
    assert (progress < 0.5) == bool((floats == x).all())
  assert (bounds[1] == -1).all()
  assert (bounds[2] >= 0).all()
  if per_channel:
    assert bounds[2][3] == 0
  np.testing.assert_array_equal(bounds[2], bounds[4])
  assert update.traces == 1


def test_ema_bounds_statistics_take_no_gradient():
  quantizer = quantizers.ema_bounds(4)
  state = quantizer.statistics(SHAPE[-1])

  def total(x):
    new = quantizer.update(x, progress=jnp.float32(1), **state)
    return sum(value.sum() for value in new.values())

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(formulas.tensor()), 0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_poke_integer_on_half_integers(bits):
  x, limit = formulas.tensor(), 2 ** (bits - 1)
  quantized = _pokebnn.integer(x, jnp.full((1, 1, 1), 2.0), bits, True, True)
  step = 2.0 / limit
  inside = np.clip(x / step, 2**-7 - limit, limit - 2**-7)
  np.testing.assert_allclose(
    quantized.value, (np.floor(inside) + 0.5) * step, rtol=1e-6
  )
  assert len(np.unique(quantized.codes)) <= 2**bits
  assert quantized.codes.dtype == (jnp.int8 if bits < 8 else jnp.bfloat16)


def test_narrowest():
  for levels, dtype in (
    ((-1, 1), jnp.int8),
    ((-128, 127), jnp.int8),
    ((0, 128), jnp.bfloat16),
    ((-255, 255), jnp.bfloat16),
    ((0, 257), jnp.float32),
  ):
    assert _base.narrowest(levels) == dtype


def test_make_without_exact_codes_has_none():
  x = jnp.array([-1.0, 0.0, 1.0])
  got = quantizers.make(x, None, bits=1, levels=(-1, 1), exact=False)
  assert got.codes is None
  np.testing.assert_array_equal(got.value, x)


def test_a_result_is_an_array_to_numpy_and_jax():
  q = quantizers.absmax(4)(formulas.tensor())
  np.testing.assert_array_equal(np.asarray(q), q.value)
  assert np.asarray(q, np.float64).dtype == np.float64
  np.testing.assert_array_equal(jnp.add(q, 1), q.value + 1)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (
      lambda: quantizers.dorefa_weight(0),
      "bits must be an integer from 1 to 8, got 0",
    ),
    (
      lambda: quantizers.dorefa_activation(9),
      "bits must be an integer from 1 to 8, got 9",
    ),
    (
      lambda: quantizers.dorefa_weight(1.5),
      "bits must be an integer from 1 to 8, got 1.5",
    ),
    (
      lambda: quantizers.absmax(1),
      "bits must be an integer from 2 to 8, got 1",
    ),
    (
      lambda: quantizers.ema_bounds(1),
      "bits must be an integer from 2 to 8, got 1",
    ),
    (
      lambda: quantizers.poke_weight(0),
      "bits must be an integer from 1 to 8, got 0",
    ),
    (
      lambda: quantizers.poke_weight(9),
      "bits must be an integer from 1 to 8, got 9",
    ),
  ],
)
def test_bad_widths_are_user_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()
