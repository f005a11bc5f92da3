"""Which side inputs fall on, and the warning if it is always the same."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers, watch


def _linear(rngs, quantizer, **keywords):
  return nn.Linear(
    4,
    4,
    input_quantizer=quantizer,
    kernel_quantizer=quantizers.sign(),
    rngs=rngs,
    **keywords,
  )


class _Net(nnx.Module):
  """Signs, 2-bit levels, statistics; the second layer runs twice."""

  def __init__(self, rngs, first=None):
    self.first = _linear(rngs, first or quantizers.sign())
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.blocks = nnx.List([_linear(rngs, quantizers.absmax(2))])
    self.last = _linear(rngs, quantizers.ema_bounds(4))
    self.unused = _linear(rngs, quantizers.sign())

  def __call__(self, x):
    x = self.norm(self.first(x))
    x = self.blocks[0](self.blocks[0](x))
    return self.last(x)


def _x(low=None):
  x = jax.random.normal(jax.random.key(0), (16, 4))
  return x if low is None else jnp.maximum(x, low)


@pytest.mark.parametrize("compiled", [False, True])
def test_shares_are_those_of_what_went_in(compiled):
  model = _Net(nnx.Rngs(0))
  graph, state = nnx.split(model)
  run = lambda state, x: watch.inputs(nnx.merge(graph, state), x)
  found = (jax.jit(run) if compiled else run)(state, _x())
  twin = nnx.merge(graph, state, copy=True)
  assert found["first"] == (_x() >= 0).mean()
  y = twin.norm(twin.first(_x()))
  calls = []
  for _ in range(2):
    quantized = twin.blocks[0].input_quantizer(y)
    middle = sum(quantized.levels) / 2
    calls.append((np.asarray(quantized.codes) > middle).mean())
    y = twin.blocks[0](y)
  np.testing.assert_allclose(found["blocks/0"], np.mean(calls), rtol=1e-6)
  np.testing.assert_allclose(found["last"], (np.asarray(y) > 0).mean())
  assert set(found) == {"first", "blocks/0", "last"}


def test_nothing_in_the_model_changes():
  model = _Net(nnx.Rngs(0))
  graph, state = nnx.split(model)
  before = jax.tree.map(np.asarray, nnx.to_pure_dict(state))
  watch.inputs(model, _x())
  after_graph, after = nnx.split(model)
  assert after_graph == graph
  jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(after))


def test_watching_changes_no_result_and_no_gradient():
  model = _Net(nnx.Rngs(0))
  twin = nnx.view(nnx.clone(model), watching=True)
  np.testing.assert_array_equal(model(_x()), twin(_x()))

  def loss(model, x):
    return jnp.square(model(x)).mean()

  plain = nnx.grad(loss)(_Net(nnx.Rngs(0)), _x())
  seeing = nnx.view(_Net(nnx.Rngs(0)), watching=True)
  watched = nnx.grad(loss)(seeing, _x())
  jax.tree.map(
    np.testing.assert_array_equal,
    nnx.to_pure_dict(plain),
    nnx.to_pure_dict(watched),
  )


@pytest.mark.parametrize("remat", [False, True])
def test_layers_of_a_scan_are_told_apart(remat):
  @nnx.vmap(in_axes=0, out_axes=0)
  def make(rngs):
    return _linear(rngs, quantizers.sign())

  class Stack(nnx.Module):
    def __init__(self):
      self.layers = make(nnx.Rngs(0).split(3))

    def __call__(self, x):
      @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
      def run(layer, x):
        call = lambda layer, x: layer(x)
        return (nnx.remat(call) if remat else call)(layer, x)

      return run(self.layers, x)

  model = Stack()
  found = watch.inputs(model, _x())
  assert list(found) == ["layers[0]", "layers[1]", "layers[2]"]
  assert found["layers[0]"] == (_x() >= 0).mean()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert not watch.warn_one_sided(model, found)
  with pytest.warns(errors.JbinWarning, match=r"input of layers\[0\] is 100%"):
    assert watch.warn_one_sided(model, watch.inputs(model, _x(0.0)))


class _Sequence(nnx.Module):
  """What an RNN does with its cell, one way or both."""

  def __init__(self, rngs, both=False):
    self.rnn = nnx.RNN(self._cell(rngs), return_carry=False)
    if both:
      self.rnn = nnx.Bidirectional(self.rnn, nnx.RNN(self._cell(rngs)))

  def _cell(self, rngs):
    cell = nnx.SimpleCell(4, 4, rngs=rngs)
    cell.dense_i, cell.dense_h = (
      _linear(rngs, quantizers.sign()) for _ in range(2)
    )
    return cell

  def __call__(self, x):
    return self.rnn(x)


def _sequences():
  return jax.random.normal(jax.random.key(1), (2, 5, 4))


def test_the_cell_of_an_rnn_is_watched_over_its_steps():
  model, x = _Sequence(nnx.Rngs(0)), _sequences()
  found = watch.inputs(model, x)
  outputs = model(x)
  before = jnp.concatenate([jnp.zeros((2, 1, 4)), outputs[:, :-1]], 1)
  want = {"rnn/cell/dense_i": x, "rnn/cell/dense_h": before}
  assert found.keys() == want.keys()
  for name, went_in in want.items():
    np.testing.assert_allclose(found[name], (went_in >= 0).mean(), rtol=1e-6)
  run = jax.jit(watch.inputs)
  jax.tree.map(np.testing.assert_array_equal, run(model, x), found)


def test_rnns_of_both_directions_and_in_a_stack():
  found = watch.inputs(_Sequence(nnx.Rngs(0), both=True), _sequences())
  cells = [f"rnn/{way}_rnn/cell" for way in ("forward", "backward")]
  layers = ("dense_i", "dense_h")
  assert set(found) == {f"{cell}/{at}" for cell in cells for at in layers}

  class Stack(nnx.Module):
    def __init__(self):
      make = nnx.vmap(_Sequence, in_axes=0, out_axes=0)
      self.layers = make(nnx.Rngs(0).split(2))

    def __call__(self, x):
      @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
      def run(layer, x):
        return layer(x)

      return run(self.layers, x)

  found = watch.inputs(Stack(), _sequences())
  names = {f"layers/rnn/cell/{at}[{i}]" for at in layers for i in range(2)}
  assert set(found) == names
  first = found["layers/rnn/cell/dense_i[0]"]
  np.testing.assert_allclose(first, (_sequences() >= 0).mean(), rtol=1e-6)


@pytest.mark.parametrize(("sign", "text"), [(1, "100%"), (-1, "0%")])
def test_a_one_sided_input_is_named_with_its_cure(sign, text):
  model = _Net(nnx.Rngs(0))
  shares = watch.inputs(model, sign * (abs(_x()) + 1))
  with pytest.warns(errors.JbinWarning) as caught:
    assert watch.warn_one_sided(model, jax.device_get(shares))
  assert len(caught) == 1
  message = str(caught[0].message)
  assert f"the 1-bit input of first is {text} +1" in message
  assert "put a batch norm before it" in message
  assert "rsign" in message


def test_only_one_bit_can_be_one_sided():
  model = _Net(nnx.Rngs(0))
  quiet = {"first": 0.999, "blocks/0": 1.0, "last": 0.0}
  assert not watch.warn_one_sided(model, quiet)


def test_more_layers_are_counted_in_one_warning():
  model = _Net(nnx.Rngs(0))
  with pytest.warns(errors.JbinWarning, match="first .and 1 more layer"):
    watch.warn_one_sided(model, {"first": 1.0, "unused": 0.0})


def test_large_inputs_are_counted_in_full():
  """One float32 sum would end at 2^24."""
  quantizer = nn.Quantizer(quantizers.sign(), 1)
  twin = nnx.view(quantizer, watching=True)
  twin(jnp.ones((4, 5_000_000), jnp.bfloat16))
  np.testing.assert_array_equal(twin.seen[...], [1.0, 1.0])


def test_a_model_without_quantizers_has_no_shares():
  assert watch.inputs(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), _x()) == {}
