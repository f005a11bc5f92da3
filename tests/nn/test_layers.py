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
from tests.nn.rows import BF16, CASES, MASK, ONLY_FLOAT

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


def _kernel_values(layer, kernel, make):
  """Quantized with the output channel last, as documented, and put back."""
  if isinstance(layer, nnx.LinearGeneral):
    batch, rows, columns = (
      int(np.prod(sizes))
      for sizes in (
        tuple(layer.batch_axis.values()),
        layer.in_features,
        layer.out_features,
      )
    )
    matrix = kernel.reshape(batch, rows, columns).transpose(1, 0, 2)
    value = make(matrix.reshape(rows, batch * columns)).value
    value = value.reshape(rows, batch, columns).transpose(1, 0, 2)
    return value.reshape(kernel.shape)
  if isinstance(layer, nnx.ConvTranspose) and layer.transpose_kernel:
    flip = (slice(None, None, -1),) * len(layer.kernel_size)
    return make(kernel[flip].swapaxes(-1, -2)).value.swapaxes(-1, -2)[flip]
  return make(kernel).value


def _input_values(layer, x, make):
  """Quantized as documented: contracted axes as one; one batch axis."""
  if isinstance(layer, nnx.LinearGeneral):
    axes = sorted(axis % x.ndim for axis in layer.axis)
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    shape = [x.shape[axis] for axis in rest]
    moved = x.transpose(*rest, *axes)
    value = make(moved.reshape(*shape, -1)).value.reshape(moved.shape)
    return value.transpose(*np.argsort([*rest, *axes]))
  if isinstance(layer, (nnx.Conv, nnx.ConvTranspose)):
    item = x.shape[-len(layer.kernel_size) - 1 :]
    return make(x.reshape(-1, *item)).value.reshape(x.shape)
  return make(x).value


def _reference(layer, x, pair):
  """Flax's layer on the quantized values."""
  make_x, make_w = pair
  weight = layer.embedding if isinstance(layer, nnx.Embed) else layer.kernel
  if make_w is not None:
    weight[...] = _kernel_values(layer, weight[...], make_w)
  if make_x is not None:
    x = _input_values(layer, x.astype(layer.dtype or x.dtype), make_x)
  return layer(x)


def _check_quantized(name, arguments, options, shape, pair):
  chosen = {"input_quantizer": pair[0], "kernel_quantizer": pair[1]}
  if name == "Embed":
    chosen, pair = {"embedding_quantizer": pair[1]}, (None, pair[1])
  x = _input(name, arguments, shape)
  mine = _make(nn, name, arguments, options, **chosen)
  theirs = _make(nnx, name, arguments, options)

  @jax.jit
  def both(x):
    call = lambda layer, x: _reference(layer, x, pair)
    if name in ("Linear", "LinearGeneral") and x.ndim == 1:  # a batch of one
      call = lambda layer, x: _reference(layer, x[None], pair)[0]
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
  ("name", "title"),
  [
    ("Linear", "plain"),
    ("LinearGeneral", "batch axes"),
    ("Conv", "circular"),
    ("Conv", "bfloat16"),
    ("ConvTranspose", "turned"),
    ("ConvTranspose", "turned, bfloat16"),
  ],
)
def test_one_quantizer_alone(name, title, pair):
  (case,) = [case for case in CASES[name] if case[0] == title]
  _check_quantized(name, *case[1:], pair)


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
    "mask has no meaning with a quantizer or an output_scale; leave one",
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
  "general axes": (
    lambda: nn.LinearGeneral(
      (4, 2), 6, axis=(-1, 1), input_quantizer=SIGN, rngs=RNGS
    )(jnp.ones((3, 2, 2, 4))),
    r"LinearGeneral: expected \(4, 2\) along axes \(-1, 1\), got \(3, 2, 2, 4",
  ),
  "general batch": (
    lambda: nn.LinearGeneral(
      4, 6, batch_axis={0: 2}, kernel_quantizer=SIGN, rngs=RNGS
    )(jnp.ones((3, 4))),
    r"and \(2,\) along the first axes, got \(3, 4\)",
  ),
  "general without the axis": (
    lambda: nn.LinearGeneral(
      (4, 4), 6, axis=(-2, -1), kernel_quantizer=SIGN, rngs=RNGS
    )(jnp.ones(4)),
    r"expected \(4, 4\) along axes \(-2, -1\), got \(4,\)",
  ),
  "general product": (
    lambda: nn.LinearGeneral(
      4, 6, dot_general_cls=lambda: jnp.dot, input_quantizer=SIGN, rngs=RNGS
    ),
    "LinearGeneral: dot_general_cls has no meaning with a quantizer",
  ),
  "transposed mask": (
    lambda: nn.ConvTranspose(
      4, 6, (3, 3), mask=MASK, kernel_quantizer=SIGN, rngs=RNGS
    ),
    "ConvTranspose: mask has no meaning with a quantizer",
  ),
  "transposed dtype": (
    lambda: nn.ConvTranspose(
      4,
      6,
      (3, 3),
      preferred_element_type=BF16,
      input_quantizer=SIGN,
      rngs=RNGS,
    ),
    "ConvTranspose: preferred_element_type has no meaning with a quantizer",
  ),
  "transposed channels": (
    lambda: nn.ConvTranspose(4, 6, (3, 3), input_quantizer=SIGN, rngs=RNGS)(
      jnp.ones((1, 5, 5, 6))
    ),
    r"ConvTranspose: expected \(batch..., 2 spatial axes, 4\), got",
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
