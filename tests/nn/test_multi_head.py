"""`nn.DotProductAttention` as the `attention_fn` of Flax's multi-head layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, errors, nn, quantizers
from tests import programs
from tests.nn import layers

SIGN = quantizers.sign()
ROWS = quantizers.absmax(8, (0, 1, 2))
SLOTS = {
  "query_quantizer": SIGN,
  "key_quantizer": SIGN,
  "weights_quantizer": ROWS,
  "value_quantizer": SIGN,
}
MEASURING = {**SLOTS, "query_quantizer": quantizers.ema_bounds(4)}
SHAPE = (2, 5, 8)


def _x(seed=0, shape=SHAPE):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def _make(slots=SLOTS, rngs=None, **options):
  return nnx.MultiHeadAttention(
    2,
    8,
    **{"decode": False, **options},
    attention_fn=nn.DotProductAttention(4, **slots),
    rngs=rngs or nnx.Rngs(0),
  )


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"num_kv_heads": 1, "dtype": jnp.bfloat16},
    {"dropout_rate": 0.5, "deterministic": False},
    {"normalize_qk": True},
  ],
  ids=str,
)
def test_without_quantizers_it_is_flax(options):
  theirs = nnx.MultiHeadAttention(
    2, 8, decode=False, rngs=nnx.Rngs(0), **options
  )
  mine = _make({}, **options)
  layers.same_variables(mine, theirs)
  layers.equal(mine, theirs, _x())


def test_a_training_step():
  """Split, merged, compiled, differentiated: as eager, statistics too."""
  eager, compiled = _make(MEASURING), _make(MEASURING)
  graph, params, rest = nnx.split(compiled, nnx.Param, ...)

  @jax.jit
  def step(params, rest, x):
    def loss(params):
      model = nnx.merge(graph, params, rest, copy=True)
      y = model(x, is_causal=True)
      return (y * jnp.cos(y)).sum(), (y, nnx.split(model, nnx.Param, ...)[2])

    return jax.grad(loss, has_aux=True)(params)

  gradients, (y, rest) = step(params, rest, _x())
  np.testing.assert_allclose(y, eager(_x(), is_causal=True), rtol=1e-5)
  for name in ("query", "key", "value", "out"):
    assert (gradients[name]["kernel"][...] != 0).any(), name
  nnx.update(compiled, rest)
  path = ("attention_fn", "query_quantizer", "statistics", "bounds")
  measured = layers.state_of(compiled)[path][1]
  assert measured.shape == (4,)
  np.testing.assert_allclose(measured, layers.state_of(eager)[path][1])
  assert (measured > 0).all()
  view = nnx.view(compiled, use_running_average=True)
  view(_x(1))
  np.testing.assert_array_equal(layers.state_of(compiled)[path][1], measured)


@pytest.mark.parametrize("groups", [2, 1])
def test_decoding_one_by_one_is_the_causal_pass(groups):
  model = _make(num_kv_heads=groups)
  want = model(_x(), is_causal=True)
  decoder = nnx.view(model, decode=True, batch_size=2, max_length=5)
  decoder.init_cache(SHAPE)
  step = nnx.jit(lambda model, x: model(x))
  got = [step(decoder, _x()[:, i : i + 1]) for i in range(5)]
  np.testing.assert_allclose(
    jnp.concatenate(got, 1), want, rtol=1e-5, atol=1e-6
  )


def test_the_probabilities_are_sown():
  mine = _make({"value_quantizer": SIGN})
  theirs = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
  sown = []
  for model in (mine, theirs):
    call = nnx.capture(
      lambda model, x: model(x, sow_weights=True), nnx.Intermediate
    )
    sown.append(call(model, _x())[1]["attention_weights"].get_value()[0])
  np.testing.assert_allclose(*sown, rtol=1e-5)


def test_dropout_acts_on_the_probabilities():
  """In training; the evaluation twin draws nothing."""
  model = _make({"weights_quantizer": ROWS}, dropout_rate=0.5, rngs=nnx.Rngs(1))
  train = nnx.view(model, deterministic=False)
  assert not np.allclose(train(_x()), train(_x()))
  view = nnx.view(model, deterministic=True)
  np.testing.assert_array_equal(view(_x()), view(_x()))


def test_layers_in_a_list_and_in_a_stack_are_apart():
  """Those of a list by path; those of a stack by their leading axis."""

  class Model(nnx.Module):
    def __init__(self, rngs):
      self.layers = nnx.List([_make(MEASURING, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
      for layer in self.layers:
        x = layer(x)
      return x

  model = Model(nnx.Rngs(0))
  y = model(_x())
  assert y.shape == SHAPE
  bounds = [
    layer.attention_fn.query_quantizer.statistics["bounds"][...]
    for layer in model.layers
  ]
  assert not np.allclose(*bounds)

  make = lambda rngs: _make(MEASURING, rngs=rngs)
  stack = nnx.vmap(make)(nnx.Rngs(0).split(2))
  nnx.update(
    stack,
    jax.tree.map(
      lambda *leaves: jnp.stack(leaves),
      *(nnx.state(layer) for layer in Model(nnx.Rngs(0)).layers),
    ),
  )

  @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
  def run(layer, x):
    return layer(x)

  np.testing.assert_allclose(run(stack, _x()), y, rtol=1e-5, atol=1e-6)
  held = stack.attention_fn.query_quantizer.statistics["bounds"][...]
  np.testing.assert_allclose(held, jnp.stack(bounds), rtol=1e-5)


def test_all_products_of_a_binary_layer_are_of_bits():
  """With projections that are quantized, too."""

  def make():
    model = _make(
      {**SLOTS, "weights_quantizer": quantizers.dorefa_activation(1)}
    )
    general = functools.partial(
      nn.LinearGeneral,
      input_quantizer=SIGN,
      kernel_quantizer=quantizers.xnor(),
      rngs=nnx.Rngs(0),
    )
    for name in ("query", "key", "value"):
      setattr(model, name, general(8, (2, 4)))
    model.out = general((2, 4), 8, axis=(-2, -1))
    return model

  model = nnx.eval_shape(make)
  report = cost.count(model, jax.ShapeDtypeStruct((1, 5, 8), jnp.float32))
  assert report.macs == {(1, 1): 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8}
  assert not report.flagged
  assert make()(_x(), is_causal=True).shape == SHAPE
  names = [(name, "kernel") for name in ("key", "out", "query", "value")]
  assert list(nn.latents(model)) == names


def test_residual_terms_have_the_types_and_the_precision_of_the_layer():
  layer = nn.MultiHeadAttention(
    2,
    8,
    low_rank=1,
    dtype=jnp.bfloat16,
    param_dtype=jnp.bfloat16,
    precision="highest",
    rngs=nnx.Rngs(0),
  )
  for path, variable in nnx.to_flat_state(nnx.state(layer, nnx.Param)):
    assert variable.dtype == jnp.bfloat16, path
  dots = [
    equation.params["precision"]
    for equation in programs.equations(layer, _x())
    if equation.primitive.name == "dot_general"
  ]
  # Flax's own function of the two products of an attention takes none.
  highest = jax.lax.Precision.HIGHEST
  assert dots.count((highest, highest)) == len(dots) - 2 == 4 + 5 + 1


@pytest.mark.parametrize(
  ("options", "names"),
  [
    ({"sow_weights": True}, "sow_weights"),
    ({"sow_weights": False, "decode": True}, "decode"),
    ({"decode": True, "sow_weights": True}, "decode, sow_weights"),
    ({"out_sharding": np.zeros(2)}, "out_sharding"),
  ],
)
def test_residual_terms_do_not_go_with_what_flax_alone_has(options, names):
  layer = nn.MultiHeadAttention(2, 8, low_rank=1, rngs=nnx.Rngs(0))
  with pytest.raises(errors.UserError, match=f"not go with {names};"):
    layer(_x(), **options)
