"""MACs against a count of scalar multiplications; the fields of a record."""

import itertools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from jbin import cost


def _count(fn, *shapes, weights=1):
  args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  (record,) = cost.count(fn, *args, weights=weights).layers
  return record


def _conv(**options):
  options = {"window_strides": (1, 1), "padding": "SAME"} | options
  return lambda x, w: lax.conv_general_dilated(
    x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
  )


def _multiplications(n, k, low, high, stride, step, hole):
  """Loops over one axis: products of a tap with an element that exists."""
  length = (n - 1) * hole + 1 + low + high
  found = 0
  for start in range(0, length - (k - 1) * step, stride):
    for tap in range(k):
      # Padding goes on at the input's own pace: it counts as input.
      found += (start + tap * step - low) % hole == 0
  return found


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  axes=st.lists(
    st.tuples(
      st.integers(3, 7),  # length
      st.integers(1, 3),  # taps
      st.integers(0, 2),  # padding before
      st.integers(0, 2),  # and after
      st.integers(1, 3),  # stride
      st.integers(1, 2),  # dilation of the window
      st.integers(1, 3),  # dilation of the input
    ),
    min_size=1,
    max_size=3,
  ),
  batch=st.integers(1, 3),
  groups=st.integers(1, 3),
  inner=st.integers(1, 3),
  outer=st.integers(1, 3),
)
def test_conv_macs_are_the_scalar_multiplications(
  axes, batch, groups, inner, outer
):
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
    feature_group_count=groups,
    dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
  )
  record = _count(
    conv, (batch, *lengths, inner * groups), (*taps, inner, outer * groups)
  )
  places = math.prod(_multiplications(*axis) for axis in axes)
  # For each place, each example, group, output channel, input channel.
  assert record.macs == places * batch * groups * outer * inner


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


def test_a_grouped_batch_is_counted():
  # The gradient by the kernel of a depthwise convolution has this form.
  conv = lambda x, w: lax.conv_general_dilated(
    x,
    w,
    (1, 1),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    batch_group_count=2,
  )
  record = _count(conv, (4, 5, 5, 3), (3, 3, 3, 6))
  assert record.macs == 2 * 3 * 3 * 6 * 9 * 3
  assert (record.kind, record.groups) == ("conv_grouped", 2)


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
  assert report.left_out["scalar operations on parameters alone"] == 2 * 256
