"""Scales that are constant on runs of the contraction: group-wise products."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from jbin import bits, cost, nn, quantizers

M, G, S, N = 4, 3, 8, 5  # rows, groups, elements of a group, columns
K = G * S
MACS = M * K * N
X = jax.ShapeDtypeStruct((M, K), jnp.float32)
W = jax.ShapeDtypeStruct((K, N), jnp.float32)


def _x(x, n=8):
  return bits.tag(jnp.round(x), n)


def _codes(w):
  return bits.tag(jnp.round(w), 4)


def _scale(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


# Each gives the (K, N) kernel from codes and the scales of its groups.
FORMS = {
  "reshaped": (
    lambda w, s: (_codes(w).reshape(G, S, N) * s).reshape(K, N),
    _scale(G, 1, N),
  ),
  "reshaped, one scale a group": (
    lambda w, s: (_codes(w).reshape(G, S, N) * s).reshape(K, N),
    _scale(G, 1, 1),
  ),
  "repeated": (
    lambda w, s: _codes(w) * jnp.repeat(s, S, axis=0),
    _scale(G, N),
  ),
  "broadcast": (
    lambda w, s: (
      _codes(w) * jnp.broadcast_to(s[:, None], (G, S, N)).reshape(K, N)
    ),
    _scale(G, N),
  ),
  "divided": (
    lambda w, s: (_codes(w).reshape(G, S, N) / s).reshape(K, N),
    _scale(G, 1, N),
  ),
  "of the kernel itself": (
    lambda w, s: (
      _codes(w).reshape(G, S, N)
      * jnp.abs(w.reshape(G, S, N)).max(1, keepdims=True)
      * s
    ).reshape(K, N),
    _scale(),
  ),
  "transposed": (
    lambda w, s: (
      (_codes(w.T).reshape(N, G, S) * s.T[..., None]).reshape(N, K).T
    ),
    _scale(G, N),
  ),
  "in bfloat16": (
    lambda w, s: (
      (_codes(w).astype(jnp.bfloat16).reshape(G, S, N) * s)
      .reshape(K, N)
      .astype(jnp.float32)
    ),
    jax.ShapeDtypeStruct((G, 1, N), jnp.bfloat16),
  ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_scale_of_groups_makes_partial_products(form):
  kernel, scale = FORMS[form]
  report = cost.count(
    lambda x, w, s: _x(x) @ kernel(w, s), X, W, scale, weights=[1, 2]
  )
  (record,) = report.layers
  assert record.flags == ("scale_by_groups",)
  assert (record.rhs.runs, record.lhs.runs) == (G, 1)
  assert record.macs == MACS
  assert record.partials == G * M * N
  assert report.ace == MACS * 8 * 4
  assert report.ace_strict == MACS * 8 * 4 + G * M * N * 32 * 32
  assert report.flagged == []


def test_the_same_product_on_kernels_in_groups():
  """`einsum` with the group as an axis: the shape changes no figure."""

  def run(x, w, s):
    kernel = _codes(w).reshape(G, S, N) * s
    return jnp.einsum("mgs,gsn->mn", _x(x).reshape(M, G, S), kernel)

  report = cost.count(run, X, W, _scale(G, 1, N), weights=[1, 2])
  assert report.layers[0].flags == ("scale_by_groups",)
  assert report.ace_strict == MACS * 8 * 4 + G * M * N * 32 * 32


def test_scales_that_are_put_on_afterwards_are_no_matter():
  def run(x, w, s):
    parts = jnp.einsum(
      "mgs,gsn->mgn", _x(x).reshape(M, G, S), _codes(w).reshape(G, S, N)
    )
    return (parts * s[None]).sum(1)

  report = cost.count(run, X, W, _scale(G, N), weights=[1, 2])
  assert report.layers[0].flags == ()
  assert report.ace == report.ace_strict == MACS * 8 * 4


@pytest.mark.parametrize(
  ("scale", "flags", "strict"),
  [
    (_scale(1, N), (), MACS * 32),
    (_scale(), (), MACS * 32),
    (_scale(K, 1), ("scale_along_contraction",), MACS * 1024),
    (_scale(K, N), ("scale_along_contraction",), MACS * 1024),
  ],
)
def test_one_run_is_none_and_full_runs_are_each_element(scale, flags, strict):
  report = cost.count(
    lambda x, w, s: _x(x) @ (_codes(w) * s), X, W, scale, weights=[1, 2]
  )
  assert report.layers[0].flags == flags
  assert report.ace_strict == strict


def test_floats_are_never_dearer_than_the_partial_products():
  """With groups of two, 8 x 8 bits and a float for each pair."""

  def run(x, w, s):
    codes = bits.tag(jnp.round(w), 30).reshape(K // 2, 2, N)
    return _x(x, 30) @ (codes * s).reshape(K, N)

  report = cost.count(run, X, W, _scale(K // 2, 1, N), weights=[1, 2])
  assert report.layers[0].flags == ("scale_by_groups",)
  assert report.ace_strict == MACS * 32 * 32


def test_a_float_activation_takes_the_scales_of_groups():
  kernel, scale = FORMS["reshaped"]
  report = cost.count(
    lambda x, w, s: x @ kernel(w, s), X, W, scale, weights=[1, 2]
  )
  assert report.layers[0].flags == ("scale_folds_into_float",)
  assert report.ace_strict == report.ace == MACS * 32 * 4


def test_groups_on_both_sides():
  def run(x, w, s, t):
    x = (_x(x).reshape(M, 2 * G, S // 2) * t).reshape(M, K)
    return x @ (_codes(w).reshape(G, S, N) * s).reshape(K, N)

  report = cost.count(
    run, X, W, _scale(G, 1, N), _scale(M, 2 * G, 1), weights=[1, 2]
  )
  (record,) = report.layers
  assert (record.lhs.runs, record.rhs.runs) == (2 * G, G)
  assert record.flags == ("scale_by_groups",)
  assert record.partials == 2 * G * M * N


@pytest.mark.parametrize(
  ("groups", "parts", "flags", "runs"),
  [
    (1, 1, (), 1),
    (1, 3, ("scale_by_groups",), 3),
    (1, 12, ("scale_along_contraction",), 0),
    (2, 2, (), 1),  # one scale for each group of the convolution
    (4, 2, (), 1),
    (2, 4, ("scale_by_groups",), 2),
    (3, 12, ("scale_along_contraction",), 0),
    (12, 12, (), 1),  # depthwise
    (2, 3, ("scale_along_contraction",), 0),  # borders that do not meet
  ],
)
@pytest.mark.parametrize("window", [1, 3])
def test_runs_of_channels_under_a_convolution(
  groups, parts, flags, runs, window
):
  def run(x, w, s):
    x = _x(x).reshape(2, 6, 6, parts, 12 // parts) * s
    return lax.conv_general_dilated(
      x.reshape(2, 6, 6, 12),
      _codes(w),
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  x = jax.ShapeDtypeStruct((2, 6, 6, 12), jnp.float32)
  w = jax.ShapeDtypeStruct((window, window, 12 // groups, 12), jnp.float32)
  report = cost.count(run, x, w, _scale(1, 1, 1, parts, 1), weights=[1, 2])
  (record,) = report.layers
  assert (record.flags, record.lhs.runs) == (flags, runs)
  if runs > 1:
    assert record.partials == runs * 2 * 6 * 6 * 12


def test_groups_of_a_stack_of_layers_and_of_experts():
  depth = 7
  kernel, scale = FORMS["reshaped"]
  stacked = [
    jax.ShapeDtypeStruct((depth, *s.shape), s.dtype)
    for s in (jax.ShapeDtypeStruct((K, N), jnp.float32), scale)
  ]

  def looped(x, w, s):
    return lax.scan(lambda x, ws: (x, _x(x) @ kernel(*ws)), x, (w, s))[1]

  def mapped(x, w, s):
    return jax.vmap(lambda w, s: _x(x) @ kernel(w, s))(w, s)

  one = cost.count(
    lambda x, w, s: _x(x) @ kernel(w, s), X, W, scale, weights=[1, 2]
  )
  for form in (looped, mapped):
    report = cost.count(form, X, *stacked, weights=[1, 2])
    assert report.layers[0].flags == ("scale_by_groups",)
    assert report.ace == depth * one.ace
    assert report.ace_strict == depth * one.ace_strict
    assert report.weights_by_bits == {4: depth * K * N}


@pytest.mark.parametrize("group", [4, 8, None])
def test_a_layer_with_a_kernel_in_groups(group):
  model = nnx.eval_shape(
    lambda: nn.Linear(
      K,
      N,
      use_bias=False,
      input_quantizer=quantizers.bitnet_activation(8),
      kernel_quantizer=quantizers.absmax(4, group=group),
      rngs=nnx.Rngs(0),
    )
  )
  report = cost.count(model, X)
  flags = () if group is None else ("scale_by_groups",)
  parts = 0 if group is None else K // group
  assert report.layers[0].flags == flags
  assert report.ace == MACS * 32
  assert report.ace_strict == MACS * 32 + parts * M * N * 32 * 32
