"""MACs against a count of scalar multiplications; the fields of a record."""

import functools
import itertools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from jbin import bits, cost
from tests.cost import scalars


def _count(fn, *shapes, weights=1):
  args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  (record,) = cost.count(fn, *args, weights=weights).layers
  return record


def _conv(**options):
  options = {"window_strides": (1, 1), "padding": "SAME"} | options
  return lambda x, w: lax.conv_general_dilated(
    x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
  )


def _same(fn, *shapes, weights=1, whole=True):
  """The one record of a product, whose MACs are those of a run by numbers."""
  rng = np.random.default_rng(0)
  arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
  report = cost.count(fn, *arrays, weights=weights)
  assert report.not_counted == []
  assert sum(report.macs.values()) == scalars.multiplications(fn, *arrays)
  if whole:
    (record,) = report.layers
    return record
  return report


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
  axes=st.lists(
    st.tuples(
      st.integers(2, 5),  # length
      st.integers(1, 3),  # taps
      st.integers(0, 2),  # padding before
      st.integers(0, 2),  # and after
      st.integers(1, 3),  # stride
      st.integers(1, 2),  # dilation of the window
      st.integers(1, 3),  # dilation of the input
    ),
    min_size=1,
    max_size=2,
  ),
  batch=st.integers(1, 2),
  groups=st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2)]),
  inner=st.integers(1, 2),
  outer=st.integers(1, 2),
)
def test_conv_macs_are_the_scalar_multiplications(
  axes, batch, groups, inner, outer
):
  """Strides, dilations, transposed ones, groups of features and of batches."""
  for n, k, low, high, _, step, hole in axes:
    hypothesis.assume((n - 1) * hole + 1 + low + high > (k - 1) * step)
  lengths, taps, lows, highs, strides, steps, holes = zip(*axes, strict=True)
  space = "DHW"[: len(axes)]
  conv = lambda x, w: lax.conv_general_dilated(
    x,
    w,
    strides,
    list(zip(lows, highs, strict=True)),
    lhs_dilation=holes,
    rhs_dilation=steps,
    feature_group_count=groups[0],
    batch_group_count=groups[1],
    dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
  )
  each = math.prod(groups)
  record = _same(
    conv,
    (batch * groups[1], *lengths, inner * groups[0]),
    (*taps, inner, outer * each),
  )
  assert record.groups == each
  assert 0 <= record.padded <= record.macs
  if not any(lows) and not any(highs):
    assert record.padded == 0


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(data=st.data())
def test_dot_macs_are_the_scalar_multiplications(data):
  size = st.integers(1, 4)
  sizes = {
    kind: data.draw(st.lists(size, max_size=2), kind)
    for kind in ("batch", "contract", "rows", "columns")
  }
  left = [("batch", i) for i in range(len(sizes["batch"]))]
  left += [("contract", i) for i in range(len(sizes["contract"]))]
  right = left + [("columns", i) for i in range(len(sizes["columns"]))]
  left += [("rows", i) for i in range(len(sizes["rows"]))]
  left = data.draw(st.permutations(left), "left")
  right = data.draw(st.permutations(right), "right")

  def places(axes, kind):
    return [axes.index((kind, i)) for i in range(len(sizes[kind]))]

  numbers = tuple(
    (places(left, kind), places(right, kind)) for kind in ("contract", "batch")
  )
  dot = lambda x, w: lax.dot_general(x, w, numbers)
  shapes = [tuple(sizes[kind][i] for kind, i in axes) for axes in (left, right)]
  weights = data.draw(st.sampled_from([(), 0, 1]), "weights")
  record = _count(dot, *shapes, weights=weights)
  # One multiplication for each index of the whole sum.
  ranges = [range(n) for n in itertools.chain(*sizes.values())]
  assert record.macs == sum(1 for _ in itertools.product(*ranges))
  assert record.kind == ("matmul" if weights == () else "dense")


def test_macs_on_padding_are_counted_and_told_apart():
  record = _same(_conv(padding="SAME"), (1, 4, 4, 2), (3, 3, 2, 5))
  assert record.macs == 4 * 4 * 9 * 2 * 5
  # At the border one of three taps falls on padding.
  assert record.padded == (12 * 12 - 10 * 10) * 2 * 5


@pytest.mark.parametrize("n", [5, 1_000_000])
def test_a_causal_convolution_as_long_as_its_input(n):
  conv = lambda x, w: lax.conv_general_dilated(x, w, (1,), [(n - 1, 0)])
  record = _count(conv, (1, 1, n), (1, 1, n), weights=1)
  assert record.macs == n * n
  assert record.macs - record.padded == n * (n + 1) // 2


def test_a_grouped_batch_is_counted():
  # The gradient by the kernel of a depthwise convolution has this form.
  record = _same(
    _conv(padding="VALID", batch_group_count=2), (4, 5, 5, 3), (3, 3, 3, 6)
  )
  assert record.macs == 2 * 3 * 3 * 6 * 9 * 3
  assert (record.kind, record.groups) == ("conv_grouped", 2)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_transposed_convolution(padding):
  conv = lambda x, w: lax.conv_transpose(x, w, (2, 2), padding)
  record = _same(conv, (1, 4, 4, 2), (3, 3, 2, 3))
  # Each element meets each tap, but for those that fall off the result.
  whole = 4 * 4 * 9 * 2 * 3
  assert record.macs - record.padded == {"VALID": whole, "SAME": 726}[padding]


def test_the_gradients_of_a_convolution():
  def run(x, w):
    loss = lambda x, w: (_conv(window_strides=(2, 2))(x, w) ** 2).sum()
    return jax.grad(loss, (0, 1))(x, w)

  report = _same(run, (2, 5, 5, 2), (3, 3, 2, 3), whole=False)
  assert [r.phase for r in report.layers] == ["forward", "backward", "backward"]


EINSUMS = {
  "ij,jk->ik": [(3, 4), (4, 5)],
  "ij,kj": [(3, 4), (5, 4)],
  "ji,jk->ki": [(4, 3), (4, 5)],
  "ij,j": [(3, 4), (4,)],
  "i,i": [(4,), (4,)],
  "ij,ij->": [(3, 4), (3, 4)],
  "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)],
  "...ij,jk->...ik": [(2, 2, 3, 4), (4, 5)],
  "...qhd,...khd->...hqk": [(2, 3, 2, 4), (2, 5, 2, 4)],
  "bhqk,bkhd->bqhd": [(2, 2, 3, 4), (2, 4, 2, 3)],
  "bqhd,hdo->bqo": [(2, 3, 2, 4), (2, 4, 5)],
  "ij,ikl->jkl": [(3, 2), (3, 2, 4)],
  "ijk,lk->lij": [(2, 3, 4), (5, 4)],
  "i,j->ij": [(3,), (4,)],  # without a sum
  "bi,bi->bi": [(2, 3), (2, 3)],
  "ii,ij->j": [(3, 3), (3, 4)],
  "ij,ik->": [(3, 4), (3, 5)],
  "ij,jk,kl->il": [(3, 4), (4, 5), (5, 2)],
  "bi,ij,bj->b": [(2, 3), (3, 4), (2, 4)],
}


@pytest.mark.parametrize("form", EINSUMS)
def test_every_form_of_einsum(form):
  shapes = EINSUMS[form]
  weights = () if len(shapes) == 2 else 1
  report = _same(
    functools.partial(jnp.einsum, form), *shapes, weights=weights, whole=False
  )
  assert len(report.layers) == len(shapes) - 1


def _ragged(numbers, sizes):
  return lambda x, w: lax.ragged_dot_general(
    x, w, jnp.array(sizes), lax.RaggedDotDimensionNumbers(*numbers)
  )


@pytest.mark.parametrize(
  ("numbers", "shapes", "kernel", "groups"),
  [
    # Each row meets the matrix of its group: experts.
    (
      ((([1], [1]), ([], [])), [0], [0]),
      [(6, 4), (3, 4, 5)],
      (3, 4, 5),
      3,
    ),
    # The sum of each group on its own: the gradient of the experts.
    ((((([0], [0]), ([], []))), [0], []), [(6, 4), (6, 5)], (6, 5), 1),
    # Groups of a batch.
    (
      (((([2], [1]), ([0], [0]))), [0], []),
      [(6, 2, 4), (6, 4, 5)],
      (6, 4, 5),
      1,
    ),
  ],
)
def test_ragged_products_in_their_three_modes(numbers, shapes, kernel, groups):
  record = _same(_ragged(numbers, [1, 0, 5]), *shapes)
  assert (record.kind, record.primitive) == ("dense", "ragged_dot_general")
  assert (record.kernel, record.groups) == (kernel, groups)
  assert record.weights == math.prod(shapes[1])


def test_experts_have_the_bits_of_their_tags():
  def run(x, w, sizes):
    return lax.ragged_dot(
      bits.tag(jnp.round(x), 8), bits.tag(jnp.sign(w), 1) * 0.5, sizes
    )

  x, w = jnp.ones((6, 4)), jnp.ones((3, 4, 5))
  report = cost.count(run, x, w, jnp.array([1, 0, 5]), weights=1)
  assert report.macs == {(8, 1): 6 * 4 * 5}
  assert report.weights_by_bits == {1: 60}


@pytest.mark.parametrize(
  ("options", "kernel", "padding"),
  [
    ({"padding": "SAME"}, (3, 3), "SAME"),
    ({"padding": "SAME", "window_strides": (2, 2)}, (3, 3), "SAME"),
    ({"padding": "SAME", "rhs_dilation": (2, 2)}, (3, 3), "SAME"),
    ({"padding": "VALID"}, (3, 3), "VALID"),
    ({"padding": "VALID"}, (1, 1), "SAME"),
    ({"padding": [(1, 1), (1, 1)]}, (3, 3), "SAME"),
    (
      {"padding": [(3, 3), (3, 3)], "window_strides": (2, 2)},
      (7, 7),
      [[3, 3], [3, 3]],
    ),
  ],
)
def test_padding_is_named_as_people_write_it(options, kernel, padding):
  record = _count(_conv(**options), (1, 8, 8, 4), (*kernel, 4, 4))
  assert record.padding == padding


def test_shapes_are_channels_last_without_the_batch():
  record = _count(
    lambda x, w: lax.conv_general_dilated(x, w, (2, 1), "VALID"),
    (2, 3, 9, 8),  # NCHW
    (5, 3, 3, 2),  # OIHW
  )
  assert record.in_shape == (9, 8, 3)
  assert record.out_shape == (4, 7, 5)
  assert record.kernel == (3, 2, 3, 5)
  assert record.strides == (2, 1)
  record = _count(
    lambda x, w: jnp.einsum("oi,bti->bto", w, x), (2, 7, 3), (5, 3)
  )
  assert record.in_shape == (7, 3)
  assert record.out_shape == (7, 5)
  assert record.kernel == (3, 5)
  record = _count(jnp.dot, (8,), (8, 3))
  assert (record.in_shape, record.out_shape) == ((8,), (3,))


def test_depthwise_channels_are_divided_by_their_groups():
  record = _count(_conv(feature_group_count=8), (1, 5, 5, 8), (3, 3, 1, 16))
  assert record.kind == "conv_grouped"
  assert record.groups == 8
  assert record.kernel == (3, 3, 1, 16)
  assert record.macs == 5 * 5 * 9 * 16


def test_a_product_of_complex_numbers_is_listed():
  x = jax.ShapeDtypeStruct((3, 3), jnp.complex64)
  report = cost.count(jnp.matmul, x, x)
  assert report.layers == []
  assert report.not_counted[0].reason == "a product of complex numbers"


def test_numpy_arrays_are_closed_over_as_weights():
  matrix = np.ones((8, 3), np.float32)
  report = cost.count(lambda x: x @ matrix, jnp.ones((2, 8)))
  assert report.weights_by_bits == {32: 24}
  assert report.params["kernel"] == 24


def test_a_product_of_parameters_alone_is_no_work_of_an_example():
  """A kernel that is rotated before use: done once, whatever comes in."""

  def run(x, w, rotation):
    return x @ (rotation @ w)

  x, w, rotation = jnp.ones((1, 8)), jnp.ones((8, 4)), jnp.ones((8, 8))
  report = cost.count(run, x, w, rotation, weights=[1, 2])
  assert report.macs == {(32, 32): 32}
  left = report.left_out()["scalar operations on parameters alone"]
  assert left == 2 * 256
