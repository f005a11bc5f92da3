"""Every primitive of JAX has a reading; what has no price is listed."""

import gc

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax
from jax.experimental import custom_partitioning, pallas
from jax.extend import core
from jax.extend.core import primitives

from jbin import bits, cost
from jbin.cost import _primitives, _products

X = jax.ShapeDtypeStruct((4, 4), jnp.float32)
# Their primitives are made when they are imported.
_IMPORTED = (custom_partitioning, pallas)
# Read by the walk itself.
_LOOPS = {"scan", "while", "cond"}
# What only transformations of JAX see, and references to mutable arrays, which
# are listed.
_INTERNAL = {"custom_lin", "get", "swap"}


def test_every_primitive_has_a_reading():
  known = {
    *_primitives.CALLS,
    *_primitives.COUNTED,
    *_primitives.LISTED,
    *_primitives.OPAQUE,
    *_products.PRODUCTS,
    *_LOOPS,
    *_INTERNAL,
  }
  found = {
    member.name
    for member in vars(primitives).values()
    if isinstance(member, core.Primitive)
  }
  assert len(found) > 150
  assert not found - known


def test_no_reading_is_of_a_primitive_that_jax_lacks():
  known = {
    *_primitives.CALLS,
    *_primitives.COUNTED,
    *_primitives.LISTED,
    *_primitives.OPAQUE,
    *_products.PRODUCTS,
  }
  # Not all are public: these are what the imports have made. By `type`: what
  # `isinstance` asks a dead weak proxy raises.
  every = (x for x in gc.get_objects() if issubclass(type(x), core.Primitive))
  assert not known - {x.name for x in every}


def test_no_primitive_has_two_readings():
  families = [
    set(_primitives.CALLS),
    set(_primitives.COUNTED),
    set(_primitives.LISTED),
    set(_primitives.OPAQUE) - _LOOPS,  # why a while is not counted
    set(_products.PRODUCTS),
    _LOOPS,
  ]
  assert sum(map(len, families)) == len(set().union(*families))


@pytest.mark.parametrize(
  ("net", "primitive"),
  [
    (lambda x: jnp.fft.fft(x).real, "fft"),
    (lambda x: jnp.cumsum(x, 0), "cumsum"),
    (lambda x: jnp.cumprod(x, 0), "cumprod"),
    (lax.cummax, "cummax"),
    (lax.cummin, "cummin"),
    (lax.cumlogsumexp, "cumlogsumexp"),
    (jnp.sort, "sort"),
    (jnp.argsort, "sort"),
    (lambda x: lax.top_k(x, 2)[0], "top_k"),
    (lambda x: lax.approx_max_k(x, 2)[0], "approx_top_k"),
  ],
)
def test_what_is_no_product_is_listed_with_its_elements(net, primitive):
  report = cost.count(net, X)
  (row,) = [row for row in report.not_counted if row.primitive == primitive]
  assert not row.matrix_like
  assert row.shapes[0] == (4, 4)
  assert row.elements == row.to_json()["elements"] == 16
  assert report.macs == {}


@pytest.mark.parametrize(
  ("net", "primitive"),
  [
    (jnp.linalg.cholesky, "cholesky"),
    (lambda x: lax.population_count(x.astype(jnp.uint32)), "population_count"),
    (lambda x: jax.pure_callback(lambda a: a, X, x), "pure_callback"),
    (
      lambda x: lax.linalg.triangular_solve(x, x, lower=True),
      "triangular_solve",
    ),
    (lambda x: jnp.linalg.svd(x)[1], "svd"),
    (jnp.linalg.eigvalsh, "eigh"),
    (lambda x: jnp.linalg.qr(x)[1], "qr"),
    (lambda x: jnp.linalg.solve(x, x[:, :1]), "lu"),
    (
      lambda x: jax.scipy.sparse.linalg.cg(lambda v: x @ v, x[:, 0])[0],
      "custom_linear_solve",
    ),
  ],
)
def test_what_may_hide_products_is_listed_in_bold(net, primitive):
  report = cost.count(net, X)
  rows = [row for row in report.not_counted if row.primitive == primitive]
  assert rows
  assert rows[0].matrix_like
  assert rows[0].reason
  text = str(report)
  assert f"NOT COUNTED: {primitive}" in text
  assert report.to_json()["not_counted"][0]["primitive"]


def test_a_primitive_that_nobody_knows_is_listed_in_bold():
  unheard = core.Primitive("unheard_of")
  unheard.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))
  with jax.named_scope("deep"):
    net = lambda x: unheard.bind(x) @ x
  report = cost.count(net, X)
  (row,) = report.not_counted
  assert (row.primitive, row.matrix_like) == ("unheard_of", True)
  assert row.reason == _primitives.NO_RULE
  assert report.macs == {(32, 32): 64}


def test_the_gradient_of_a_pool_is_element_wise():
  def pool(x):
    return nnx.max_pool(x, (2, 2), (2, 2)).sum()

  x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  report = cost.count(jax.grad(pool), x)
  assert report.not_counted == []
  found = report.elementwise_by_primitive
  assert found["select_and_scatter_add"] == 4 * 4 * 4 * 3


# --- embeddings ---------------------------------------------------------------


class Reader(nnx.Module):
  """Tokens to vectors, from a table whose elements may be narrow."""

  def __init__(self, width=None, dtype=jnp.float32):
    self.table = nnx.Param(jnp.zeros((10, 4), dtype))
    self.head = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
    self.width = width

  def __call__(self, tokens):
    table = self.table[...]
    if self.width:
      table = bits.tag(jnp.round(table), self.width)
    return self.head(jnp.take(table, tokens, axis=0).astype(jnp.float32))


@pytest.mark.parametrize(
  ("options", "width"),
  [
    ({}, 32),
    ({"dtype": jnp.bfloat16}, 16),
    ({"dtype": jnp.int4}, 4),
    ({"width": 2}, 2),
  ],
)
def test_a_look_up_is_no_product_and_has_the_width_of_its_table(options, width):
  tokens = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  report = cost.count(Reader(**options), tokens)
  (look,) = report.lookups
  assert (look.path, look.elements, look.bits) == ("table", 2 * 3 * 4, width)
  # The tag of the table goes with its rows.
  expected = options.get("width", width)
  assert set(report.macs) == {(expected if "width" in options else 32, 32)}
  assert sum(report.macs.values()) == 2 * 3 * 4 * 3


def test_a_slice_where_data_points_is_a_look_up():
  """One expert of several: an activation from then on."""

  def net(x, experts, which):
    chosen = lax.dynamic_index_in_dim(experts, which, keepdims=False)
    return x @ bits.tag(jnp.sign(chosen), 1)

  experts = jax.ShapeDtypeStruct((7, 4, 3), jnp.bfloat16)
  which = jax.ShapeDtypeStruct((), jnp.int32)
  report = cost.count(net, X, experts, which, weights=1)
  (look,) = report.lookups
  assert (look.path, look.elements, look.bits) == ("arg1", 4 * 3, 16)
  assert report.macs == {(32, 1): 4 * 4 * 3}
  assert report.layers[0].kind == "matmul"
  # The number of a loop's trip is no data: then it is a layer's weight.
  each = lambda x, w: lax.fori_loop(
    0, 7, lambda i, y: y + net(x, w, i), jnp.zeros((4, 3))
  )
  report = cost.count(each, X, experts, weights=1)
  assert report.lookups == []
  assert (report.layers[0].kind, report.layers[0].macs) == ("dense", 7 * 48)


def test_look_ups_in_a_loop_are_added_up():
  def net(table, tokens):
    row = lambda c, t: (c + table[t].sum(), None)
    return lax.scan(row, 0.0, tokens)[0]

  table = jax.ShapeDtypeStruct((10, 4), jnp.float32)
  tokens = jax.ShapeDtypeStruct((5, 6), jnp.int32)
  report = cost.count(net, table, tokens, weights=0)
  assert [look.elements for look in report.lookups] == [5 * 6 * 4]


def test_a_closed_over_table_is_a_parameter():
  table = jnp.ones((10, 8))
  ids = jax.ShapeDtypeStruct((4,), jnp.int32)
  report = cost.count(lambda i: table[i], ids)
  (look,) = report.lookups
  assert (look.path, look.elements) == ("const0", 32)
  assert report.params["total"] == report.params["other"] == 80
  assert report.memory().embeddings_by_bits == {32: 80}
