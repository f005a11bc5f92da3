"""Layers equal Flax without quantizers; with them, Flax on their values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import bits, errors, nn, quantizers
from tests import programs
from tests.nn import layers

BF16 = jnp.bfloat16
SIGN = quantizers.sign()
RNGS = nnx.Rngs(0)


def _random(shape, seed=0, dtype=jnp.float32):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32).astype(dtype)


def _init(key, shape, dtype, out_sharding=None):
  """Of numpy, so that no shape compiles anything."""
  del key, out_sharding
  return _random(shape, sum(shape), dtype)


def _make(module, name, arguments, options, **quantizers):
  init = "embedding_init" if name == "Embed" else "kernel_init"
  return getattr(module, name)(
    *arguments, rngs=RNGS, **{init: _init}, **options, **quantizers
  )


# Name, arguments, options, shape of the input.
LINEAR = [
  ("plain", (5, 4), {}, (3, 5)),
  ("batches", (5, 4), {"use_bias": False}, (2, 3, 5)),
  ("a vector", (5, 4), {}, (5,)),
  ("bfloat16", (5, 4), {"dtype": BF16}, (3, 5)),
  ("bfloat16 weights", (5, 4), {"param_dtype": BF16, "dtype": BF16}, (3, 5)),
]
TWO, ONE = (2, 6, 5, 4), (2, 7, 4)
CONV = [
  ("plain", (4, 6, (3, 3)), {}, TWO),
  ("no bias", (4, 6, (3, 2), (2, 1)), {"use_bias": False}, TWO),
  ("valid", (4, 6, (3, 3), 2), {"padding": "VALID"}, TWO),
  ("same lower", (4, 6, (2, 2), 2), {"padding": "SAME_LOWER"}, TWO),
  ("a number", (4, 6, (3, 3)), {"padding": 2}, TWO),
  ("numbers", (4, 6, (3, 3)), {"padding": (1, 0)}, TWO),
  ("pairs", (4, 6, (3, 3)), {"padding": ((2, 0), (1, 3))}, TWO),
  ("circular", (4, 6, (3, 4)), {"padding": "CIRCULAR"}, TWO),
  ("reflect", (4, 6, (3, 2), 2), {"padding": "REFLECT"}, TWO),
  (
    "circular dilated",
    (4, 6, (3, 2)),
    {"padding": "CIRCULAR", "kernel_dilation": (2, 1)},
    TWO,
  ),
  ("causal", (4, 6, 3), {"padding": "CAUSAL", "kernel_dilation": 2}, ONE),
  ("one axis", (4, 6, (3,), 2), {}, ONE),
  ("three axes", (4, 6, (2, 1, 3)), {}, (2, 3, 2, 4, 4)),
  ("groups", (4, 6, (3, 3)), {"feature_group_count": 2}, TWO),
  ("depthwise", (4, 8, (3, 3)), {"feature_group_count": 4}, TWO),
  ("kernel dilated", (4, 6, (3, 3)), {"kernel_dilation": (1, 2)}, TWO),
  (
    "input dilated",
    (4, 6, (3, 3)),
    {"input_dilation": (2, 1), "padding": ((1, 2), (0, 1))},
    TWO,
  ),
  ("strides None", (4, 6, (3, 3), None), {}, TWO),
  ("several batch axes", (4, 6, (3, 3)), {}, (2, 3, 4, 5, 4)),
  ("no batch axis", (4, 6, (3, 3)), {"padding": "CIRCULAR"}, (5, 6, 4)),
  ("bfloat16", (4, 6, (3, 3)), {"dtype": BF16}, TWO),
]
EINSUM = [
  ("heads", ("btd,dhk->bthk", (5, 2, 3), (2, 3)), {}, (2, 4, 5)),
  ("no bias", ("nta,hab->nthb", (2, 3, 4)), {}, (2, 5, 3)),
  ("bfloat16", ("td,dk->tk", (5, 3), (3,)), {"dtype": BF16}, (4, 5)),
]
EMBED = [
  ("plain", (7, 4), {}, (2, 3)),
  ("bfloat16", (7, 4), {"dtype": BF16}, (5,)),
  ("one row", (1, 4), {}, (3,)),
]
MASK = (np.arange(3 * 3 * 4 * 6) % 3 > 0).reshape(3, 3, 4, 6)
# What a quantized layer refuses.
ONLY_FLOAT = {
  "Conv": [("mask", (4, 6, (3, 3)), {"mask": jnp.asarray(MASK)}, TWO)],
  "Einsum": [
    ("dots", ("...d,dk->...k", (5, 3), (3,)), {}, (2, 4, 5)),
  ],
}
CASES = {"Linear": LINEAR, "Conv": CONV, "Einsum": EINSUM, "Embed": EMBED}


def _cases(*, floats: bool):
  for name, rows in CASES.items():
    extra = ONLY_FLOAT.get(name, []) if floats else []
    for title, *row in (*rows, *extra):
      yield pytest.param(name, *row, id=f"{name}: {title}")


every_case = functools.partial(
  pytest.mark.parametrize, ("name", "arguments", "options", "shape")
)


def _input(name, arguments, shape):
  if name == "Embed":
    return (
      jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape)
      % (arguments[0])
    )
  return _random(shape, 1)


@every_case(list(_cases(floats=True)))
def test_without_quantizers_it_is_flax(name, arguments, options, shape):
  mine, theirs = (
    _make(module, name, arguments, options) for module in (nn, nnx)
  )
  assert isinstance(mine, getattr(nnx, name))
  layers.same_variables(mine, theirs)
  layers.same_program(mine, theirs, _input(name, arguments, shape))


@pytest.mark.parametrize("name", CASES)
def test_without_quantizers_it_starts_and_computes_as_flax(name):
  """With the default initializers, run: to the last bit."""
  _, arguments, options, shape = CASES[name][0]
  mine, theirs = (
    getattr(module, name)(*arguments, rngs=nnx.Rngs(0), **options)
    for module in (nn, nnx)
  )
  layers.same_variables(mine, theirs)
  layers.equal(mine, theirs, _input(name, arguments, shape))


def test_embed_attend_is_flax():
  mine, theirs = (module.Embed(7, 4, rngs=nnx.Rngs(0)) for module in (nn, nnx))
  attend = lambda layer, x: layer.attend(x)
  layers.same_program(mine, theirs, _random((2, 4)), attend)


@pytest.mark.parametrize("running", [False, True])
def test_batch_norm_is_flax(running):
  options = {"momentum": 0.9, "use_running_average": running}
  norms = [
    module.BatchNorm(4, rngs=nnx.Rngs(0), **options) for module in (nn, nnx)
  ]
  x = 3 * _random((6, 2, 4)) + 1
  layers.same_variables(*norms)
  layers.equal(*norms, x)
  for norm in norms:
    norm(x)
  for name in ("mean", "var"):
    mine, theirs = (getattr(norm, name)[...] for norm in norms)
    np.testing.assert_array_equal(mine, theirs)
    assert bool((theirs == (name == "var")).all()) == running
  said = programs.tags(nnx.view(norms[0], use_running_average=True), x)
  assert [(tag, aval.shape) for tag, aval in said] == [
    (bits.OpTag("batch_norm", 1), x.shape)
  ]


# Of the input and of the kernel.
QUANTIZERS = [
  (quantizers.absmax(8, (0,)), quantizers.xnor()),
  (quantizers.sign(), None),
  (None, quantizers.poke_weight(4)),
]


def _reference(layer, x, pair, kind):
  """Flax's layer on the quantized values, example by example."""
  make_x, make_w = pair
  weight = "embedding" if kind == "Embed" else "kernel"
  kernel = getattr(layer, weight)[...]
  if make_w is not None:
    kernel = make_w(kernel).value
  getattr(layer, weight)[...] = kernel
  if make_x is None:
    return layer(x)
  if kind != "Conv":
    return layer(make_x(x.astype(layer.dtype or x.dtype)).value)
  item = len(layer.kernel_size) + 1
  batch = x.shape[:-item]
  x = x.reshape(-1, *x.shape[-item:]).astype(layer.dtype or x.dtype)
  y = layer(make_x(x).value)
  return y.reshape(*batch, *y.shape[1:])


def _check_quantized(name, arguments, options, shape, pair):
  chosen = {"input_quantizer": pair[0], "kernel_quantizer": pair[1]}
  if name == "Embed":
    chosen, pair = {"embedding_quantizer": pair[1]}, (None, pair[1])
  x = _input(name, arguments, shape)
  mine = _make(nn, name, arguments, options, **chosen)
  theirs = _make(nnx, name, arguments, options)

  @jax.jit
  def both(x):
    call = lambda layer, x: _reference(layer, x, pair, name)
    got = layers.run(lambda layer, x: layer(x), mine, x)
    return got, layers.run(call, theirs, x)

  got, want = both(x)
  narrow = options.get("dtype") == BF16
  layers.close(got, want, 0.02 if narrow else 1e-5)


@every_case(list(_cases(floats=False)))
def test_with_quantizers_it_is_flax_on_their_values(
  name, arguments, options, shape
):
  """Output and gradients, in every combination of options."""
  _check_quantized(name, arguments, options, shape, QUANTIZERS[0])


@pytest.mark.parametrize("pair", QUANTIZERS[1:], ids=["input", "kernel"])
@pytest.mark.parametrize(
  "row", [0, "circular", "bfloat16"], ids=["Linear", "Conv", "bfloat16"]
)
def test_one_quantizer_alone(row, pair):
  if row == 0:
    _check_quantized("Linear", *LINEAR[0][1:], pair)
  else:
    (case,) = [case for case in CONV if case[0] == row]
    _check_quantized("Conv", *case[1:], pair)


def test_quantized_embed_attends_with_its_rows():
  layer = nn.Embed(
    7, 8, embedding_quantizer=quantizers.xnor((0,)), rngs=nnx.Rngs(0)
  )
  table = quantizers.xnor((0,))(layer.embedding[...]).value
  query = _random((3, 8))
  np.testing.assert_allclose(layer.attend(query), query @ table.T, rtol=1e-5)
  np.testing.assert_array_equal(layer(jnp.array([2, 5])), table[2:6:3])


def test_bfloat16_layers_have_the_codes_of_float32_ones():
  """Latent weights are quantized before they are cast."""
  layer = nn.Linear(
    5, 4, kernel_quantizer=quantizers.absmax(8), dtype=BF16, rngs=nnx.Rngs(0)
  )
  kernel = quantizers.absmax(8)(layer.kernel[...]).value.astype(BF16)
  np.testing.assert_array_equal(layer(jnp.eye(5, dtype=BF16)), kernel)


ERRORS = {
  "a name": (
    lambda: nn.Linear(3, 3, input_quantizer="sign", rngs=RNGS),
    "expected a quantizer such as",
  ),
  "a class": (
    lambda: nn.Conv(3, 3, (1, 1), kernel_quantizer=quantizers.sign, rngs=RNGS),
    "expected a quantizer such as",
  ),
  "mask": (
    lambda: nn.Conv(4, 6, (3, 3), mask=MASK, kernel_quantizer=SIGN, rngs=RNGS),
    "mask has no meaning with a quantizer; leave mask out",
  ),
  "another product": (
    lambda: nn.Linear(
      3, 3, input_quantizer=SIGN, dot_general=jnp.dot, rngs=RNGS
    ),
    "dot_general has no meaning with a quantizer",
  ),
  "an axis that is not there": (
    lambda: nn.Linear(
      3, 3, kernel_quantizer=quantizers.absmax(axes=(3,)), rngs=RNGS
    )(jnp.ones((2, 3))),
    r"axes \(3,\) are not all axes of an array of rank 2",
  ),
  "conv channels": (
    lambda: nn.Conv(4, 6, (3, 3), input_quantizer=SIGN, rngs=RNGS)(
      jnp.ones((1, 5, 5, 3))
    ),
    r"expected \(batch..., 2 spatial axes, 4\), got \(1, 5, 5, 3\)",
  ),
  "conv axes": (
    lambda: nn.Conv(4, 6, (3, 3), input_quantizer=SIGN, rngs=RNGS)(
      jnp.ones((5, 4))
    ),
    r"expected \(batch..., 2 spatial axes, 4\), got \(5, 4\)",
  ),
  "linear channels": (
    lambda: nn.Linear(4, 6, input_quantizer=SIGN, rngs=RNGS)(jnp.ones((2, 3))),
    r"Linear: expected \(batch..., 4\), got \(2, 3\)",
  ),
  "causal in two axes": (
    lambda: nn.Conv(
      4, 6, (3, 3), padding="CAUSAL", input_quantizer=SIGN, rngs=RNGS
    )(jnp.ones((1, 5, 5, 4))),
    "causal padding needs one spatial axis, not 2",
  ),
  "out_sharding": (
    lambda: nn.Linear(4, 6, input_quantizer=SIGN, rngs=RNGS)(
      jnp.ones((2, 4)), out_sharding=jax.sharding.PartitionSpec()
    ),
    "Linear: out_sharding has no meaning",
  ),
  "dots": (
    lambda: nn.Einsum("...d,dk->...k", (3, 3), input_quantizer=SIGN, rngs=RNGS)(
      jnp.ones((2, 3))
    ),
    "two operands and the result",
  ),
  "floats to rows": (
    lambda: nn.Embed(4, 6, embedding_quantizer=SIGN, rngs=RNGS)(jnp.ones(2)),
    r"Embed takes integers, got float32 of shape \(2,\)",
  ),
}


@pytest.mark.parametrize(("make", "text"), ERRORS.values(), ids=ERRORS)
def test_errors(make, text):
  with pytest.raises(errors.UserError, match=text):
    make()
