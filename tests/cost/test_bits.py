"""How a tag flows, where it ends, and which scales are flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jbin import bits, cost

_X = jax.ShapeDtypeStruct((4, 6), jnp.float32)
_W = jax.ShapeDtypeStruct((6, 6), jnp.float32)


def _bits(flow, dtype=jnp.float32):
  """The bits that `flow`, after a 3-bit tag, leaves to a product."""

  def program(x, w):
    x = flow(bits.tag(jnp.round(x).astype(dtype), 3))
    # Any matrix that fits; its bits are those of float32.
    w = jnp.ones((x.shape[-1], 5)) * w[0, 0]
    return x.astype(jnp.float32) @ w

  (pair,) = cost.count(program, _X, _W, weights=1).macs
  return pair[0]


CARRIES = {
  "nothing": lambda x: x,
  "reshape": lambda x: x.reshape(2, 12),
  "transpose": lambda x: x.T,
  "bfloat16": lambda x: x.astype(jnp.bfloat16),
  "int8": lambda x: x.astype(jnp.int8),
  "slice": lambda x: x[1:3, ::2],
  "index": lambda x: x[1],
  "dynamic_slice": lambda x: lax.dynamic_slice(x, (1, 0), (2, 6)),
  "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2))),
  "concatenate": lambda x: jnp.concatenate([x, x], 1),
  "stack": lambda x: jnp.stack([x, x]),
  "tile": lambda x: jnp.tile(x, (2, 1)),
  "repeat": lambda x: jnp.repeat(x, 2, 0),
  "flip": lambda x: x[::-1],
  "roll": lambda x: jnp.roll(x, 1, 0),
  "broadcast": lambda x: jnp.broadcast_to(x, (7, 4, 6)),
  "expand and squeeze": lambda x: jnp.squeeze(x[:, None], 1),
  "split": lambda x: jnp.split(x, 2)[1],
  "take": lambda x: jnp.take(x, jnp.array([0, 2]), axis=0),
  "max pool": lambda x: nnx.max_pool(x[..., None], (2,), (2,))[..., 0],
  "negate": lambda x: -x,
  "stop_gradient": lax.stop_gradient,
  "barrier": lax.optimization_barrier,
  "select of tagged": lambda x: jnp.where(x > 0, x, -x),
  "scale": lambda x: x * 0.3,
  "divide": lambda x: x / jnp.float32(3.0),
  "scale by a row": lambda x: x * jnp.arange(6.0)[None],
  "tag through a wider one": lambda x: jnp.concatenate(
    [bits.tag(jnp.sign(x), 1), x], 1
  ),
  "checkpoint": jax.checkpoint(lambda x: x * 2.0),
  "scan's rows": lambda x: lax.scan(lambda c, r: (c, r), 0, x)[1],
  "scan's carry": lambda x: lax.fori_loop(0, 3, lambda _, c: -c, x),
  "mark": lambda x: bits.mark(x, "op"),
}

ENDS = {
  "add": lambda x: x + 1.0,
  "add of two": lambda x: x + x,
  "product of two": lambda x: x * x,
  "divisor": lambda x: 1.0 / x,
  "relu": lambda x: jnp.maximum(x, 0.0),
  "exp": jnp.exp,
  "sum": lambda x: x.sum(0),
  "select with untagged": lambda x: jnp.where(x > 0, x, 0.5),
  "concatenate with untagged": lambda x: jnp.concatenate(
    [x, jnp.ones((4, 1))], 1
  ),
  "times an activation": lambda x: x * jnp.cumprod(x + 1.0, 1),
  "scan's carry grows": lambda x: lax.fori_loop(0, 3, lambda _, c: c + 1.0, x),
  "product": lambda x: x @ jnp.ones((6, 6)),
}


@pytest.mark.parametrize("flow", CARRIES)
def test_the_tag_goes_with_the_value(flow):
  assert _bits(CARRIES[flow]) == 3


@pytest.mark.parametrize("flow", ENDS)
def test_the_tag_ends_where_values_change(flow):
  macs = _all_bits(ENDS[flow])
  assert macs[-1][0] == 32


def _all_bits(flow):
  def program(x, w):
    x = flow(bits.tag(jnp.round(x), 3))
    return x @ (jnp.ones((x.shape[-1], 5)) * w[0, 0])

  report = cost.count(program, _X, _W, weights=1)
  return [(r.lhs_bits, r.rhs_bits) for r in report.layers]


def test_without_a_tag_the_dtype_counts():
  widths = {
    jnp.float32: 32,
    jnp.bfloat16: 16,
    jnp.float16: 16,
    jnp.int8: 8,
    jnp.uint8: 8,
    jnp.int4: 4,
    jnp.float8_e4m3fn: 8,
  }
  for dtype, width in widths.items():
    x = jax.ShapeDtypeStruct((2, 3), dtype)
    y = jax.ShapeDtypeStruct((3, 2), dtype)
    dot = lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32)
    assert cost.count(dot, x, y).macs == {(width, width): 12}


def test_a_gated_quantizer_has_the_bits_that_are_configured():
  def gated(x, w, active):
    codes = bits.tag(jnp.round(x), 4)
    q = codes * jnp.arange(1.0, 7.0)[None]
    x = bits.tag(jnp.where(active, q, x), 4)
    return x @ bits.tag(jnp.sign(w), 1)

  active = jax.ShapeDtypeStruct((), jnp.bool_)
  report = cost.count(gated, _X, _W, active, weights=1)
  assert report.macs == {(4, 1): 4 * 6 * 6}
  assert len(report.flagged) == 1  # the scale is not forgotten


# --- scales along a contraction ---------------------------------------------


def _flags(x_scale, w_scale, *, tag_x=True, tag_w=True, dot=None):
  def program(x, w):
    x = bits.tag(jnp.round(x), 8) if tag_x else x
    w = bits.tag(jnp.round(w), 4) if tag_w else w
    product = dot or (lambda a, b: a @ b)
    by = x_scale() if callable(x_scale) else x_scale
    return product(x * by, w * w_scale)

  return cost.count(program, _X, _W, weights=1)


_ROW = np.arange(1.0, 7.0, dtype=np.float32)[None]  # varies along axis 1
_COLUMN = _ROW.T
_ROWS = _COLUMN[:4]
_MACS = 4 * 6 * 6


@pytest.mark.parametrize(
  ("x_scale", "w_scale", "flagged"),
  [
    (0.5, 2.0, False),
    (_ROWS, _ROW, False),  # per example, per output channel
    (_ROW, 1.0, True),  # per input channel
    (1.0, _COLUMN, True),
    (lambda: jnp.full((1, 6), 3.0), 1.0, False),  # a row of one value
  ],
)
def test_a_scale_along_the_contraction_is_flagged(x_scale, w_scale, flagged):
  report = _flags(x_scale, w_scale)
  assert report.macs == {(8, 4): _MACS}
  assert report.ace == 32 * _MACS
  assert report.flagged == (["arg1"] if flagged else [])
  assert report.ace_strict == (1024 if flagged else 32) * _MACS


def test_the_scale_folds_into_a_float_operand():
  report = _flags(1.0, _COLUMN, tag_x=False)
  assert report.macs == {(32, 4): _MACS}
  assert report.flagged == []
  assert report.layers[0].flags == ("scale_folds_into_float",)
  assert report.ace_strict == report.ace


def test_strict_uses_the_width_of_the_scaled_operand():
  half = lambda a, b: a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)
  report = _flags(_ROW, 1.0, dot=half)
  assert report.ace_strict == 256 * _MACS


@pytest.mark.parametrize(
  ("move", "flagged"),
  [
    (lambda x: x.reshape(2, 2, 6), True),
    (lambda x: x.reshape(2, 12), True),
    (lambda x: jnp.swapaxes(x.reshape(4, 6, 1), 0, 1)[:, :, 0], False),
    (lambda x: x[:, :1], False),
    (lambda x: jnp.concatenate([x[:, :3], x[:, 3:]], 1), True),
    (lambda x: jnp.stack([x, x])[0], True),
    (lambda x: lax.scan(lambda c, r: (c, r), 0, x)[1], True),
    (lambda x: lax.scan(lambda c, r: (c, r), 0, x.T)[1].T, True),
  ],
)
def test_a_scale_moves_with_its_axis(move, flagged):
  def program(x):
    x = move(bits.tag(jnp.round(x), 8) * _ROW)
    return x @ bits.tag(jnp.ones((x.shape[-1], 3)), 8)

  assert bool(cost.count(program, _X).flagged) == flagged


def test_parts_with_different_scales_make_a_scale_along_their_axis():
  def program(x, other):
    codes = bits.tag(jnp.round(x), 8)
    first = codes * 0.5
    parts = [first, codes * 0.25 if other else first]
    return jnp.concatenate(parts, 1) @ bits.tag(jnp.ones((12, 3)), 8)

  assert cost.count(program, _X, False).flagged == []
  assert len(cost.count(program, _X, True).flagged) == 1


@pytest.mark.parametrize(
  ("groups", "window", "axis", "flagged"),
  [
    (1, 1, 3, True),  # per input channel
    (1, 3, 1, True),  # along H, under a 3x3 window
    (1, 1, 1, False),  # along H, 1x1: not contracted
    (6, 3, 3, False),  # depthwise: each channel on its own
    (2, 3, 3, True),
  ],
)
def test_convolutions_contract_channels_and_windows(
  groups, window, axis, flagged
):
  scale = np.arange(1.0, 7.0, dtype=np.float32)
  scale = scale.reshape([6 if d == axis else 1 for d in range(4)])

  def program(x, w):
    return lax.conv_general_dilated(
      bits.tag(jnp.round(x), 8) * scale,
      bits.tag(jnp.sign(w), 1),
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  x = jax.ShapeDtypeStruct((2, 6, 6, 6), jnp.float32)
  w = jax.ShapeDtypeStruct((window, window, 6 // groups, 12), jnp.float32)
  assert bool(cost.count(program, x, w, weights=1).flagged) == flagged


# --- where a weight comes from ----------------------------------------------

WEIGHTS = {
  "itself": lambda w: w,
  "transposed": lambda w: w.T,
  "standardised": lambda w: (w - w.mean()) / jnp.sqrt(w.var() + 1e-5),
  "binarized": lambda w: jnp.sign(w) * jnp.abs(w).max(0, keepdims=True),
  "selected": lambda w: jnp.where(w > 0, 1.0, -1.0),
  "reshaped": lambda w: w.reshape(3, 2, 6).transpose(1, 0, 2).reshape(6, 6),
  "half": lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
  "masked": lambda w: w * (jnp.abs(w) > 0.1),
}


@pytest.mark.parametrize("made", WEIGHTS)
def test_a_weight_is_followed_to_its_parameter(made):
  report = cost.count(
    lambda x, p: x @ WEIGHTS[made](p["fc"]["kernel"]) + p["fc"]["bias"],
    _X,
    {"fc": {"kernel": _W, "bias": jnp.ones((1, 6))}},
    weights=1,
  )
  (record,) = report.layers
  assert (record.name, record.kind, record.weights) == ("fc", "dense", 36)
  assert record.bias
  assert report.params == {
    "total": 42,
    "kernel": 36,
    "bias": 6,
    "bn": 0,
    "dprelu": 0,
    "other": 0,
  }


def test_the_weight_may_stand_on_the_left():
  def program(x, w):
    return bits.tag(jnp.sign(w), 1) @ bits.tag(jnp.round(x), 4).T

  (record,) = cost.count(program, _X, _W, weights=1).layers
  assert (record.lhs_bits, record.rhs_bits) == (4, 1)
  assert (record.kind, record.name, record.macs) == ("dense", "arg1", _MACS)


def test_a_shared_weight_is_stored_once_at_its_widest_use():
  def program(x, w):
    x = x @ bits.tag(jnp.sign(w), 1)
    return x @ bits.tag(jnp.round(w), 4)

  report = cost.count(program, _X, _W, weights=1)
  assert report.weights_by_bits == {4: 36}
  assert report.weight_bits == 144
  assert [r.weights for r in report.layers] == [36, 36]


def test_two_activations_make_a_matmul():
  def attention(q, k):
    with jax.named_scope("scores"):
      return jnp.einsum("bqd,bkd->bqk", q, k)

  q = jax.ShapeDtypeStruct((2, 5, 8), jnp.float32)
  k = jax.ShapeDtypeStruct((2, 7, 8), jnp.float32)
  report = cost.count(attention, q, k)
  (record,) = report.layers
  assert (record.kind, record.name, record.weights) == (
    "matmul",
    "scores/bqd,bkd->bqk",
    0,
  )
  assert record.macs == 2 * 5 * 7 * 8
  assert report.weights_by_bits == {}


@pytest.mark.parametrize(("batch", "wide"), [(1, 1), (2, 32)])
def test_a_gate_at_a_batch_of_one_is_taken_for_a_scale_and_said(batch, wide):
  gated = lambda x, w: (bits.tag(jnp.sign(x), 1) * jax.nn.sigmoid(x)) @ w
  x = jax.ShapeDtypeStruct((batch, 6), jnp.float32)
  report = cost.count(gated, x, _W, weights=1)
  assert report.macs == {(wide, 32): batch * 36}
  assert [note.partition(":")[0] for note in report.notes] == (
    ["mul at the top"] if batch == 1 else []
  )


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("shape", [(16,), (1, 16)])
def test_a_scale_for_each_input_channel_is_flagged(batch, shape):
  """Also at batch 1, where it has the shape of the codes."""

  def run(x, scale, w):
    return (bits.tag(x, 8) * scale) @ bits.tag(w, 8)

  args = [
    jax.ShapeDtypeStruct(s, jnp.float32) for s in ((batch, 16), shape, (16, 3))
  ]
  with jax.numpy_rank_promotion("allow"):
    report = cost.count(run, *args)
  assert report.macs == {(8, 8): batch * 48}
  assert len(report.flagged) == 1
  assert report.ace_strict == batch * 48 * 32 * 32
