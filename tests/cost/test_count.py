"""The front door: modules, abstract or not, paths, kinds, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import bits, cost, errors

_X = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
_SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


class Block(nnx.Module):
  def __init__(self, channels, *, rngs):
    self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(channels, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.dropout(nnx.relu(self.norm(self.conv(x))))


class Net(nnx.Module):
  def __init__(self, *, depth=2, remat=False, rngs):
    self.stem = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs)
    self.blocks = nnx.List([Block(4, rngs=rngs) for _ in range(depth)])
    self.head = nnx.Linear(4, 5, rngs=rngs)
    self.remat = remat

  def features(self, x):
    call = lambda block, x: block(x)
    if self.remat:
      call = nnx.remat(call)
    x = self.stem(x)
    for block in self.blocks:
      x = call(block, x)
    return x

  def __call__(self, x):
    return self.head(self.features(x).mean((1, 2)))


def _abstract(**options):
  return nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(0), **options))


@pytest.fixture(scope="module")
def report():
  return cost.count(_abstract(), _X)


def test_an_abstract_module(report):
  assert [r.name for r in report.layers] == [
    "stem",
    "blocks/0/conv",
    "blocks/1/conv",
    "head",
  ]
  assert [r.bias for r in report.layers] == [False, True, True, True]
  assert report.macs == {(32, 32): 64 * 9 * (12 + 16 + 16) + 20}
  assert report.params == {
    "total": 108 + 2 * (144 + 4 + 8) + 25,
    "kernel": 108 + 288 + 20,
    "bias": 8 + 5,
    "bn": 16,
    "dprelu": 0,
    "other": 0,
  }
  assert report.batch_stats == 16
  assert report.model == "Net"
  assert report.to_json()["input"] == [8, 8, 3]


def test_a_module_and_its_function_and_its_method_agree(report):
  model = Net(rngs=nnx.Rngs(0))
  same = {
    "concrete": cost.count(model, _X),
    "argument": cost.count(lambda m, x: m(x), model, _X, name="Net"),
    "in a dict": cost.count(lambda d, x: d["m"](x), {"m": model}, _X),
    "remat": cost.count(_abstract(remat=True), _X),
    "train mode is not counted": cost.count(
      nnx.view(model, deterministic=False, use_running_average=False), _X
    ),
  }
  expected = report.to_json()
  for how, other in same.items():
    found = other.to_json()
    assert found["totals"] == expected["totals"], how
    prefix = "m/" if how == "in a dict" else ""
    assert [row["name"] for row in found["layers"]] == [
      prefix + row["name"] for row in expected["layers"]
    ], how
  # Nothing was changed by looking.
  assert not model.blocks[0].dropout.deterministic
  features = cost.count(model.features, _X)
  assert features.model == "features"
  assert [r.name for r in features.layers] == [
    r.name for r in report.layers[:-1]
  ]


def test_a_stack_of_scanned_layers():
  class Stack(nnx.Module):
    def __init__(self, *, rngs):
      @nnx.split_rngs(splits=5)
      @nnx.vmap(in_axes=(0,), out_axes=0)
      def make(rngs):
        return nnx.Linear(4, 4, rngs=rngs)

      self.layers = make(rngs)

    def __call__(self, x):
      @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
      def run(x, layer):
        return layer(x)

      return run(x, self.layers)

  model = nnx.eval_shape(lambda: Stack(rngs=nnx.Rngs(0)))
  report = cost.count(model, jax.ShapeDtypeStruct((2, 4), jnp.float32))
  (record,) = report.layers
  assert (record.name, record.macs, record.weights) == ("layers", 160, 80)
  assert (record.bias, record.repeats) == (True, 5)
  assert report.weights_by_bits == {32: 80}


def test_several_weights_of_one_layer_have_their_own_names():
  class Pair(nnx.Module):
    def __init__(self):
      self.up = nnx.Param(jnp.ones((4, 8)))
      self.down = nnx.Param(jnp.ones((8, 4)))

    def __call__(self, x):
      return x @ self.up[...] @ self.down[...]

  class Outer(nnx.Module):
    def __init__(self):
      self.pair = Pair()

    def __call__(self, x):
      return self.pair(x)

  report = cost.count(Outer(), jnp.ones((1, 4)))
  assert [r.name for r in report.layers] == ["pair/up", "pair/down"]
  assert report.params["kernel"] == 64
  alone = cost.count(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), jnp.ones((1, 4)))
  assert [r.name for r in alone.layers] == ["Linear"]
  assert alone.layers[0].bias


def test_a_large_model_is_counted_without_memory():
  class Wide(nnx.Module):
    def __init__(self, rngs):
      self.fc = nnx.Linear(1 << 17, 1 << 17, rngs=rngs)

    def __call__(self, x):
      return self.fc(x)

  model = nnx.eval_shape(lambda: Wide(nnx.Rngs(0)))  # 69 GB if it were real
  x = jax.ShapeDtypeStruct((1, 1 << 17), jnp.float32)
  assert cost.count(model, x).macs == {(32, 32): 1 << 34}


def test_two_modules_are_told_apart():
  student, teacher = (
    nnx.Linear(4, n, use_bias=False, rngs=nnx.Rngs(0)) for n in (4, 8)
  )
  both = lambda s, t, x: (s(x), t(x))
  report = cost.count(both, student, teacher, jnp.ones((1, 4)))
  assert [r.name for r in report.layers] == ["arg0", "arg1"]


def test_static_arguments_and_several_inputs():
  def net(x, ids, scale, flag, missing):
    assert flag is True
    assert missing is None
    return x * scale, ids

  report = cost.count(
    net, jnp.ones((2, 3)), jnp.ones((2,), jnp.int32), 2.0, True, None
  )
  assert report.inputs == [(3,), ()]
  assert report.layers == []
  assert report.ace == 0


def test_an_embedding_look_up_is_no_product():
  class Embedder(nnx.Module):
    def __init__(self, rngs):
      self.embed = nnx.Embed(10, 4, rngs=rngs)

    def __call__(self, tokens):
      x = bits.tag(jnp.sign(self.embed(tokens)), 1)
      return self.embed.attend(x)

  model = nnx.eval_shape(lambda: Embedder(nnx.Rngs(0)))
  report = cost.count(model, jax.ShapeDtypeStruct((2, 3), jnp.int32))
  (record,) = report.layers
  assert (record.name, record.macs) == ("embed", 2 * 3 * 4 * 10)
  assert report.macs == {(1, 32): 240}


def test_errors_say_what_to_do():
  with pytest.raises(errors.UserError, match="function or an NNX module"):
    cost.count(3)
  model = _abstract()
  with pytest.raises(errors.UserError, match="as an argument"):
    cost.count(lambda x: model(x), _X)  # noqa: PLW0108 - a closure
  report = cost.count(lambda x: x, jnp.ones(3))
  with pytest.raises(errors.UnknownName, match="did you mean ace"):
    report.total("acee")


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"weights": 2}, r"weights=\[2\] names no argument of 2; .*from 0"),
    ({"states": [0, -1]}, r"states=\[-1\] names no argument"),
    ({"weights": (0, 1), "states": 1}, r"\[1\] are both in weights and"),
    ({"weights": 0.5}, "weights=0.5: give the position"),
    ({"weights": "1"}, "weights='1': give the position"),
    ({"trips": -3}, "trips=-3: how often .* an integer from 0 on"),
    ({"trips": 2.5}, "trips=2.5: how often"),
    ({"trips": "3"}, "trips='3': how often"),
    ({"trips": {"while": -1}}, "trips={'while': -1}: how often"),
  ],
)
def test_arguments_are_checked(given, said):
  for run in (cost.count, cost.training):
    with pytest.raises(errors.UserError, match=said):
      run(jnp.dot, _SQUARE, _SQUARE, **given)


@pytest.mark.parametrize("donate", [7, -1, (0, 2)])
def test_what_is_donated_is_checked(donate):
  for run in (cost.training, cost.peak, cost.memory_check):
    with pytest.raises(errors.UserError, match=r"donate=.* names no argument"):
      run(jnp.dot, _SQUARE, _SQUARE, donate=donate)


def test_prefixes_are_checked():
  with pytest.raises(
    errors.UserError, match=r"prefixes for \[9\]: no argument"
  ):
    cost.training(jnp.dot, _SQUARE, _SQUARE, prefixes={9: "teacher"})


@pytest.mark.parametrize("one", [np.int64(1), (1,), range(1, 2), {1}])
def test_positions_may_be_any_integers(one):
  report = cost.count(jnp.dot, _SQUARE, _SQUARE, weights=one)
  assert list(report.parameters) == ["arg1"]
  assert cost.peak(jnp.dot, _SQUARE, _SQUARE, donate=one).bytes == 64


@pytest.mark.parametrize(
  "wrap",
  [
    lambda block: lambda x: block(x) + 0,
    lambda block: functools.partial(block.__call__),
    nnx.jit,
  ],
)
def test_a_module_in_training_mode_that_is_closed_over_is_named(wrap):
  block = Block(3, rngs=nnx.Rngs(0))
  with pytest.raises(errors.UserError, match="give the module to cost"):
    cost.count(wrap(block), _X)
  viewed = nnx.view(block, deterministic=True, use_running_average=True)
  assert cost.count(wrap(viewed), _X).macs == cost.count(block, _X).macs
