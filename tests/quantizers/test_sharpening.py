"""ReSTE, BiPer, IR-Net and RBNN beside the contract: stages, rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers, schedules
from jbin.quantizers import _rbnn
from tests import programs
from tests.quantizers import formulas
from tests.quantizers.formulas import SHAPE

NUMBERS = {
  "reste_weight": (quantizers.reste_weight, schedules.linear(1.0, 3.0), 2.0),
  "reste_activation t": (
    lambda t: quantizers.reste_activation(2.0, t),
    schedules.linear(1.0, 3.0),
    2.0,
  ),
  "irnet_weight": (quantizers.irnet_weight, schedules.linear(1.0, 3.0), 2.0),
  "irnet_activation k": (
    lambda k: quantizers.irnet_activation(1.0, k),
    schedules.linear(1.0, 3.0),
    2.0,
  ),
  "rbnn_activation": (
    quantizers.rbnn_activation,
    schedules.linear(1.0, 3.0),
    2.0,
  ),
  "adabin_weight": (quantizers.adabin_weight, schedules.linear(1.0, 3.0), 2.0),
  "biper_weight": (
    lambda omega: quantizers.biper_weight(omega, 0, learned_scale=False),
    schedules.linear(10.0, 30.0),
    20.0,
  ),
}


@pytest.mark.parametrize(
  ("make", "schedule", "number"), NUMBERS.values(), ids=NUMBERS
)
def test_a_schedule_is_traced_and_equals_its_number(make, schedule, number):
  def pair(quantizer, x, progress=None):
    run = lambda x: quantizer(x, progress=progress).value
    return run(x), jax.grad(lambda x: run(x).sum())(x)

  scheduled = programs.Jit(lambda x, p: pair(make(schedule), x, p))
  x = formulas.tensor()
  for at in (0.0, 0.5, 1.0):
    got = scheduled(x, np.float32(at))
    if at == 0.5:
      for mine, want in zip(got, pair(make(number), x), strict=True):
        np.testing.assert_allclose(mine, want, rtol=1e-5, atol=1e-6)
  assert scheduled.traces == 1
  assert make(schedule).scheduled
  assert not make(number).scheduled
  with pytest.raises(errors.UserError, match="needs a progress"):
    make(schedule)(x)


# --- BiPer ------------------------------------------------------------------


def test_biper_goes_from_the_sine_to_its_sign_without_recompiling():
  layer = nn.Linear(
    8,
    4,
    use_bias=False,
    kernel_quantizer=quantizers.biper_weight(5.0, 0.5),
    rngs=nnx.Rngs(0),
  )
  kernel = np.asarray(layer.kernel[...])
  alpha = np.asarray(layer.kernel_quantizer.learned["scale"][...])
  assert alpha.shape == (4,)
  assert (alpha >= 0).all()
  assert (alpha < 1).all()
  graphdef, state = nnx.split(layer)
  run = programs.Jit(lambda state, x: nnx.merge(graphdef, state)(x))
  x = np.eye(8, dtype=np.float32)
  wave = np.sin(5 * kernel)
  for progress, want in ((0.0, wave), (0.49, wave), (0.5, np.sign(wave))):
    y = run(schedules.set_progress(state, progress), x)
    np.testing.assert_allclose(y, alpha * want, atol=1e-6)
  assert run.traces == 1


def test_biper_needs_a_key_for_its_scale_only():
  spec = quantizers.biper_weight()
  assert spec.seeded
  with pytest.raises(errors.UserError, match="draws its initial values"):
    spec.parameters(4)
  bare = quantizers.biper_weight(learned_scale=False)
  assert not bare.seeded
  assert bare.parameters(4) == {}


# --- IR-Net -----------------------------------------------------------------


def test_irnet_scales_are_powers_of_two():
  w = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
  w[:, 1] *= 1e-4  # scale and shift do not matter
  w[:, 2] += 7
  q = quantizers.irnet_weight(1.0)(w)
  np.testing.assert_array_equal(q.scale, np.ones((1, 5)))
  # Few great weights: a mean far below the deviation.
  w = np.where(np.arange(64) == 0, 1.0, 1e-3)[:, None]
  q = quantizers.irnet_weight(1.0)(jnp.asarray(w, jnp.float32))
  np.testing.assert_array_equal(q.scale, [[0.25]])


@pytest.mark.parametrize("value", [0.1, -3.7, 1e-20, 1e12])
@pytest.mark.parametrize(
  "make",
  [
    lambda: quantizers.irnet_weight(1.0),
    lambda: quantizers.adabin_weight(1.0),
    lambda: quantizers.rbnn_activation(1.0),
  ],
  ids=["irnet_weight", "adabin_weight", "rbnn_activation"],
)
def test_a_constant_channel_is_not_its_rounding_error(make, value):
  """The mean of equal numbers may differ from them in the last bit."""
  x = jnp.full((3, 3, 41), value, jnp.float32)
  g = jnp.asarray(formulas.tensor().ravel()[: x.size].reshape(x.shape))
  y, back = jax.vjp(lambda x: make()(x).value, x)
  (dx,) = back(g)
  # AdaBin passes the mean's gradient, a mean of g.
  assert abs(np.asarray(dx)).max() <= abs(g).max()
  if isinstance(make(), quantizers.adabin_weight):
    np.testing.assert_allclose(y, x, rtol=1e-6)


# --- RBNN -------------------------------------------------------------------


def _kernel(shape=(3, 3, 8, 16)):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_factors_are_as_square_as_they_can_be():
  sizes = {72: (8, 9), 64: (8, 8), 40: (5, 8), 7: (1, 7), 1: (1, 1)}
  for count, pair in sizes.items():
    assert _rbnn.factors(count) == pair


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (5, 4, 6), (12, 3)])
def test_split_takes_filters_as_pytorch_lays_them(shape):
  w = jnp.asarray(_kernel(shape))
  matrices = _rbnn.split(w)
  theirs = np.moveaxis(np.moveaxis(w, -1, 0), -1, 1)
  np.testing.assert_array_equal(
    np.ravel(matrices), theirs.reshape(shape[-1], -1).ravel()
  )
  np.testing.assert_array_equal(_rbnn.join(matrices, shape), w)


def test_bi_rotation_turns_filters_towards_their_signs():
  x = _rbnn.split(jnp.asarray(_kernel()))
  left, right = _rbnn.orthogonal(8, 0), _rbnn.orthogonal(9, 1)

  def angle(*pair):
    rotated = _rbnn.rotate(x, *pair)
    norm = jnp.sqrt(jnp.square(rotated).sum() * rotated.size)
    return float(jnp.abs(rotated).sum() / norm)

  cosines = [angle(left, right)]
  for _ in range(3):
    left, right = _rbnn.bi_rotation(x, left, right, rounds=1)
    cosines.append(angle(left, right))
  assert cosines == sorted(cosines)
  assert cosines[-1] > cosines[0] + 0.01
  for matrix in (left, right):
    eye = np.eye(len(matrix))
    np.testing.assert_allclose(matrix.T @ matrix, eye, atol=1e-5)


def test_rotations_are_learned_once_an_epoch():
  layer = nn.Conv(
    8,
    16,
    (3, 3),
    kernel_quantizer=quantizers.rbnn_weight(epochs=4),
    input_quantizer=quantizers.rbnn_activation(),
    rngs=nnx.Rngs(0),
  )
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  x = np.random.default_rng(2).normal(size=(2, 6, 6, 8)).astype(np.float32)

  @programs.Jit
  def step(params, rest, progress):
    def loss(params):
      rest_now = schedules.set_progress(rest, progress)
      model = nnx.merge(graphdef, params, rest_now, copy=True)
      y = model(x)
      return jnp.square(y).mean(), nnx.state(model, nnx.Not(nnx.Param))

    grads, new = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), new, grads

  rotations = []
  for index in range(12):
    progress = schedules.progress_at(index, 12)
    params, rest, grads = step(params, rest, progress)
    statistics = rest["kernel_quantizer"]["statistics"]
    rotations.append(np.asarray(statistics["left"][...]))
    assert statistics["epoch"][...] == index // 3
    for leaf in jax.tree.leaves(grads):
      assert np.isfinite(leaf).all()
      assert (leaf != 0).any()
  assert step.traces == 1
  for index in range(1, 12):
    same = (rotations[index] == rotations[index - 1]).all()
    assert same == (index % 3 != 0), index
  final = nnx.merge(graphdef, params, rest)
  twin = nnx.view(final, use_running_average=True)
  twin(x)
  kept = twin.kernel_quantizer.statistics["left"][...]
  np.testing.assert_array_equal(kept, rotations[-1])


def test_the_paper_s_theta_has_no_gradient_and_ours_has():
  def gradients(theta, **options):
    spec = quantizers.rbnn_weight(t=1.0, theta=theta, **options)
    w = jnp.asarray(_kernel())
    values = {**spec.parameters(16, w), **spec.statistics(16, w)}

    def loss(w, theta):
      value = spec(w, **{**values, "theta": theta}).value
      return (value * jnp.cos(jnp.arange(w.size).reshape(w.shape))).sum()

    pair = jax.grad(loss, (0, 1))(w, values["theta"])
    return [float(abs(part).max()) for part in pair]

  dead = gradients(np.pi / 2)
  assert max(dead) < 1e-5
  assert min(gradients(np.pi / 4)) > 0.05
  # The exact derivative keeps the weights alive, not theta.
  through = gradients(np.pi / 2, detached=False)
  assert through[0] > 0.05
  assert through[1] < 1e-5


def test_rbnn_takes_its_sizes_from_a_kernel():
  with pytest.raises(errors.UserError, match="sizes of its rotations"):
    quantizers.rbnn_weight().statistics(4)
  spec = quantizers.rbnn_weight()
  shapes = jax.eval_shape(
    lambda w: spec.statistics(16, w), jnp.zeros((3, 3, 8, 16))
  )
  assert shapes["left"].shape == (8, 8)
  assert shapes["right"].shape == (9, 9)


def test_rbnn_statistics_take_no_gradient():
  spec = quantizers.rbnn_weight()
  w = jnp.asarray(_kernel())
  state = spec.statistics(16, w)

  def total(w):
    new = spec.update(w, progress=jnp.float32(0), **state)
    return sum(value.sum() for value in new.values())

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(w), 0)


def test_shapes_of_the_contract_have_rotations():
  """The rows' kernel: 8 by 5 inputs make (5, 8) matrices."""
  state = quantizers.rbnn_weight().statistics(SHAPE[-1], formulas.tensor())
  assert state["left"].shape == (5, 5)
  assert state["right"].shape == (8, 8)
