"""Products of codes equal the float products of the values, both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jbin import errors, products, quantizers
from tests import programs
from tests.products import operands
from tests.products.geometries import GEOMETRIES, PLAIN

FORMS = ("auto", "int8", "bfloat16", "float32")
# What every geometry is tested with, and those that see every kind.
USUAL = ("scaled bits per example", "scale per channel")
DOTS = ("dot", "einsum of heads")
PAIRS = (
  *((left, "scale per channel") for left in operands.LEFT),
  *(("sign", right) for right in operands.RIGHT),
  ("float", "sign"),
  ("scale per example", "float"),
  ("scale per example", "two bits"),
  ("unsigned 8 bits", "wide codes"),
  ("float", "float"),
)
CASES = [(name, *USUAL) for name in GEOMETRIES]
CASES += [(DOTS[i % 2], *pair) for i, pair in enumerate(PAIRS)]
CASES += [("transposed", *p) for p in PAIRS[:6]]
CASES += [("conv in groups", *p) for p in PAIRS if p[0] != "sign"]
CASES += [("conv in groups", "sign", "one scale")]
CASES = list(dict.fromkeys(CASES))


def _upstream(shape):
  return jnp.cos(jnp.arange(np.prod(shape), dtype=jnp.float32)).reshape(shape)


def _arguments(name, left, right, dtype=jnp.float32):
  (product, reference), left_shape, right_shape = GEOMETRIES[name]
  x = operands.LEFT[left](operands.random(left_shape, 1, dtype))
  w = operands.RIGHT[right](operands.random(right_shape, 2, dtype))
  return product, reference, x, w


def _forms(left, right):
  if left in operands.WIDE or right in operands.WIDE:
    return tuple(form for form in FORMS if form != "int8")
  return FORMS


@pytest.mark.parametrize(
  ("name", "left", "right"),
  [pytest.param(*case, id=", ".join(case)) for case in CASES],
)
def test_equals_the_product_of_the_values(name, left, right):
  """Forward in every form, and both gradients; one program for all.

  The form is one of the forward; the backward does not know it.
  """
  (product, reference), *shapes = GEOMETRIES[name]
  x, w = (operands.random(shape, i) for i, shape in enumerate(shapes))
  forms = _forms(left, right)

  @jax.jit
  def run(x, w):
    x, w = operands.LEFT[left](x), operands.RIGHT[right](w)
    values = operands.value_of(x), operands.value_of(w)
    g = _upstream(jax.eval_shape(reference, *values).shape)
    forward = [product(x, w, form=form) for form in forms]
    both = [operands.pulled(product, x, w, g)]
    return forward, [*both, operands.pulled(reference, *values, g)]

  forward, (got, want) = run(x, w)
  operands.compare(got, want, 1e-5)
  operands.compare(forward, [want[0]] * len(forms), 1e-5, forms)


def test_codes_are_what_is_multiplied():
  """With codes of another value than `value`, the result follows the codes."""
  x = operands.LEFT["sign"](operands.random((4, 16), 0))
  w = operands.RIGHT["sign"](operands.random((16, 3), 1))
  got = products.dot_general(
    operands.with_value(x, 0 * x.value), operands.with_value(w, w.value), PLAIN
  )
  np.testing.assert_array_equal(got, x.value @ w.value)


def test_integer_sums_are_exact():
  """Of one-bit codes, whatever the form and the length of the sum."""
  x = quantizers.sign()(operands.random((8, 4096), 3))
  w = quantizers.sign()(operands.random((4096, 32), 4))
  want = np.asarray(x.codes, np.int64) @ np.asarray(w.codes, np.int64)
  for form in FORMS:
    np.testing.assert_array_equal(
      products.dot_general(x, w, PLAIN, form=form), want
    )


@pytest.mark.parametrize("name", ["dot", "conv"])
@pytest.mark.parametrize(
  ("left", "right"), [("sign", "scale per channel"), ("one scale", "float")]
)
def test_bfloat16_values(name, left, right):
  """The result and both gradients are bfloat16, near the float32 ones."""
  product, reference, x, w = _arguments(name, left, right, jnp.bfloat16)
  values = [operands.value_of(a).astype(jnp.float32) for a in (x, w)]
  g = _upstream(jax.eval_shape(reference, *values).shape)
  got = jax.jit(functools.partial(operands.pulled, product))(x, w, g)
  assert {part.dtype for part in got} == {jnp.dtype(jnp.bfloat16)}
  want = jax.jit(functools.partial(operands.pulled, reference))(
    *values, g.astype(jnp.bfloat16).astype(jnp.float32)
  )
  operands.compare([part.astype(jnp.float32) for part in got], want, 0.02)


@pytest.mark.parametrize(
  "name", ["dot with batches", "einsum of heads", "conv"]
)
def test_bfloat16_gradients(name):
  """Within 2 % of the exact ones; both operands of a product are bfloat16."""
  product, _, x, w = _arguments(name, "sign", "scale per channel")
  shape = jax.eval_shape(product, x, w).shape
  g = _upstream(shape)

  def run(x, w, g, precision):
    return operands.pulled(
      functools.partial(product, grad_precision=precision), x, w, g
    )

  exact, rough = (
    jax.jit(functools.partial(run, precision=precision))(x, w, g)
    for precision in ("float32", "bfloat16")
  )
  np.testing.assert_array_equal(exact[0], rough[0])
  operands.compare(rough, exact, 0.02)
  kinds = ("dot_general", "conv_general_dilated")
  multiplied = [
    tuple(v.aval.dtype for v in equation.invars)
    for equation in programs.equations(
      functools.partial(run, precision="bfloat16"), x, w, g
    )
    if equation.primitive.name in kinds
  ]
  narrow = (jnp.dtype(jnp.bfloat16),) * 2
  assert multiplied.count(narrow) == 2
  assert len(multiplied) == 3


@pytest.mark.parametrize("left", ["sign", "scale per example", "float"])
def test_transformations(left):
  """vmap, scan, remat and grad around a product, scales and all."""
  right = "scale per channel"
  make_x, make_w = operands.LEFT[left], operands.RIGHT[right]
  x, w = operands.random((3, 4, 24), 5), operands.random((3, 24, 8), 6)

  def low_bit(x, w):
    return products.dot_general(make_x(x), make_w(w), PLAIN)

  def plain(x, w):
    return operands.value_of(make_x(x)) @ operands.value_of(make_w(w))

  def everything(f):
    def loss(f):
      return lambda *args: (f(*args) ** 2).sum()

    def scanned(x, w):
      return lax.scan(lambda c, a: (c, f(*a)), None, (x, w))[1]

    def shared(x, w):
      return jax.vmap(f, (0, None))(x, w[0])

    grads = functools.partial(jax.grad, argnums=(0, 1))
    mapped = jax.vmap(f)
    return {
      "vmap": mapped(x, w),
      "vmap of x": shared(x, w),
      "vmap of w": jax.vmap(f, (None, 0))(x[0], w),
      "vmap of grad": jax.vmap(grads(loss(f)))(x, w),
      "grad of vmap": grads(loss(mapped))(x, w),
      "grad of shared vmap": grads(loss(shared))(x, w),
      "grad of scan": grads(loss(scanned))(x, w),
      "grad of remat": grads(loss(jax.checkpoint(mapped)))(x, w),
      "remat in scan": grads(
        loss(
          lambda x, w: lax.scan(
            jax.checkpoint(lambda c, a: (c, f(*a))), None, (x, w)
          )[1]
        )
      )(x, w),
    }

  got, want = jax.jit(lambda: (everything(low_bit), everything(plain)))()
  for name in want:
    operands.compare(
      jax.tree.leaves(got[name]),
      leaves := jax.tree.leaves(want[name]),
      1e-5,
      [name] * len(leaves),
    )


def test_vmap_of_products_of_ready_operands():
  """A `Quantized` is a tree: each of a stack keeps its own scale."""
  x = operands.LEFT["scale per example"](operands.random((5, 4, 24), 1))
  w = jax.vmap(operands.RIGHT["scale per channel"])(
    operands.random((5, 24, 8), 2)
  )
  assert w.scale.shape == (5, 1, 8)
  got = jax.vmap(lambda x, w: products.dot_general(x, w, PLAIN))(x, w)
  np.testing.assert_allclose(
    got, jnp.matmul(x.value, w.value), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("name", ["dot of whole bytes", "conv of whole bytes"])
def test_sharded_over_eight_devices(name):
  """The batch over two of them, the output channels over four."""
  product, reference, _, _ = _arguments(name, "sign", "scale per channel")
  _, left_shape, right_shape = GEOMETRIES[name]
  left_shape = (8, *left_shape[1:])
  make_x = operands.LEFT["scale per example"]
  make_w = operands.RIGHT["scale per channel"]
  mesh = jax.make_mesh(
    (2, 4), ("data", "model"), (jax.sharding.AxisType.Auto,) * 2
  )
  columns = PartitionSpec(*[None] * (len(right_shape) - 1), "model")
  x = operands.random(left_shape, 1)
  w = operands.random(right_shape, 2)
  put = (
    jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))),
    jax.device_put(w, NamedSharding(mesh, columns)),
  )

  @jax.jit
  def run(x, w):
    y, pull = jax.vjp(lambda x, w: product(make_x(x), make_w(w)), x, w)
    return y, *pull(jnp.sin(y))

  got = run(*put)
  assert got[2].sharding.is_equivalent_to(put[1].sharding, w.ndim)

  @jax.jit
  def plain(x, w):
    y, pull = jax.vjp(
      lambda x, w: reference(make_x(x).value, make_w(w).value), x, w
    )
    return y, *pull(jnp.sin(y))

  operands.compare(got, plain(x, w), 1e-5)


def test_small_residuals():
  """Of 1-bit operands nothing is kept but bits: 1/32 of a float each."""

  def run(x, w):
    return products.dot_general(
      quantizers.sign()(x), quantizers.xnor()(w), PLAIN
    )

  x, w = operands.random((64, 256), 1), operands.random((256, 32), 2)
  _, pull = jax.vjp(run, x, w)
  leaves = jax.tree.leaves(pull)
  for leaf in leaves:
    if leaf.dtype != jnp.uint8:
      assert leaf.size <= w.shape[-1], leaf.aval
  # Codes and windows of both.
  packed = sum(leaf.nbytes for leaf in leaves if leaf.dtype == jnp.uint8)
  assert packed == 2 * (x.size + w.size) // 8


def test_residuals_of_more_bits_are_their_codes():
  x, w = operands.random((64, 256), 1), operands.random((256, 32), 2)
  make = quantizers.absmax(8, ())

  def run(x, w):
    return products.dot_general(make(x), quantizers.xnor()(w), PLAIN)

  _, pull = jax.vjp(run, x, w)
  kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size == x.size]
  assert [leaf.dtype for leaf in kept] == [jnp.dtype(jnp.int8)]


@pytest.mark.parametrize(
  "equation",
  ["ij,jk", "ij->ji", "...j,jk->...k", "ii,ij->ij", "a,b,c->abc"],
)
def test_einsums_that_are_refused(equation):
  x = jnp.ones((2, 2))
  with pytest.raises(errors.UserError, match="two operands and the result"):
    products.einsum(equation, x, x)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"form": "int4"}, "unknown form 'int4'; did you mean int8"),
    ({"form": "int8"}, "cannot hold codes from 0 to 255; take bfloat16"),
    ({"grad_precision": "bf16"}, "unknown grad_precision 'bf16'"),
  ],
)
def test_bad_options(options, text):
  x = operands.LEFT["unsigned 8 bits"](operands.random((2, 3), 0))
  w = operands.RIGHT["sign"](operands.random((3, 2), 0))
  with pytest.raises(errors.UserError, match=text):
    products.dot_general(x, w, PLAIN, **options)
