"""At 8 and 4 bits jbin's integers are Qwix's, scale by scale and code by code.

Qwix's symmetric bound lies half a step beyond the greatest code
(`absmax(..., half_step=True)`); its asymmetric range holds zero (`minmax`).
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import nn, quantizers

qwix = pytest.importorskip(
  "qwix", reason="compares with google/qwix; pip install qwix"
)

TYPES = {8: jnp.int8, 7: "int7", 4: jnp.int4, 3: "int3", 2: "int2"}
WIDTHS = pytest.mark.parametrize("bits", TYPES)
BOTH = pytest.mark.parametrize("bits", [8, 4])


def tensor(seed=0, shape=(96, 32)):
  """Normal, with a channel of zeros, one constant and one far from zero."""
  x = np.random.default_rng(seed).normal(size=shape)
  x[..., 1], x[..., 2], x[..., 3] = 0.0, -0.75, x[..., 3] + 5
  return jnp.asarray(x, jnp.float32)


def check(quantizer, x, theirs):
  """Value, codes and step, of the eager program, bit for bit."""
  ours = quantizer(x)
  zero = 0 if theirs.zero_point is None else theirs.zero_point
  codes = np.asarray(theirs.qvalue, np.int32) - spread(zero, x.shape)
  np.testing.assert_array_equal(np.asarray(ours.codes, np.int32), codes)
  want = np.asarray(qwix.dequantize(theirs), np.float32)
  np.testing.assert_array_equal(np.asarray(ours.value, np.float32), want)
  step = spread(theirs.scale, x.shape, np.float32)
  got = np.broadcast_to(np.asarray(ours.scale), x.shape)
  np.testing.assert_array_equal(got, step)


def spread(part, shape, dtype=np.int32):
  """A scale or zero point of tiles, once for each element."""
  part = np.asarray(part).astype(dtype)
  for axis, size in enumerate(shape if part.ndim else ()):
    part = np.repeat(part, size // part.shape[axis], axis)
  return part


@WIDTHS
def test_weights_per_channel(bits):
  w = tensor()
  theirs = qwix.quantize(w, TYPES[bits], channelwise_axes=[1])
  check(quantizers.absmax(bits, half_step=True), w, theirs)


@WIDTHS
def test_activations_per_tensor(bits):
  x = tensor(1, (4, 7, 16))
  theirs = qwix.quantize(x, TYPES[bits])
  check(quantizers.absmax(bits, (), half_step=True), x, theirs)


@BOTH
def test_activations_per_token(bits):
  x = tensor(2, (4, 7, 16))
  theirs = qwix.quantize(x, TYPES[bits], channelwise_axes=[0, 1])
  check(quantizers.absmax(bits, (0, 1), half_step=True), x, theirs)


@BOTH
@pytest.mark.parametrize("axes", [(), (1,)], ids=["tensor", "channel"])
def test_asymmetric(bits, axes):
  x = tensor(3)
  theirs = qwix.quantize(
    x, TYPES[bits], channelwise_axes=axes, calibration_method="minmax"
  )
  check(quantizers.minmax(bits, axes), x, theirs)


@BOTH
@pytest.mark.parametrize("method", ["absmax", "minmax"])
def test_groups_of_weights(bits, method):
  w = tensor(4)
  theirs = qwix.quantize(
    w,
    TYPES[bits],
    channelwise_axes=[1],
    tiled_axes={0: 32},
    calibration_method=method,
  )
  ours = (
    quantizers.absmax(bits, (1,), 32, half_step=True)
    if method == "absmax"
    else quantizers.minmax(bits, (1,), 32)
  )
  check(ours, w, theirs)


@pytest.mark.parametrize("bits", [8, 7])
def test_a_trained_layer(bits):
  """A linear layer under Qwix's provider: output and both gradients.

  Not at 4 bits: XLA on CPU has no product of int4, which Qwix takes.
  """
  rule = qwix.QtRule(
    weight_qtype=TYPES[bits],
    act_qtype=TYPES[bits],
    # Gradients of what was multiplied, not of what it was made of.
    additional_qt_config={"use_original_residuals": False},
  )
  x, w = tensor(5, (24, 96)), tensor(6)
  theirs = nnx.Linear(*w.shape, use_bias=False, rngs=nnx.Rngs(0))
  theirs.kernel[...] = w
  theirs = qwix.quantize_model(theirs, qwix.QtProvider([rule]), x)
  ours = nn.Linear(
    *w.shape,
    use_bias=False,
    input_quantizer=quantizers.absmax(bits, (0,), half_step=True),
    kernel_quantizer=quantizers.absmax(bits, half_step=True),
    rngs=nnx.Rngs(0),
  )
  ours.kernel[...] = w

  def run(layer):
    loss = lambda layer, x: jnp.square(layer(x)).sum()
    y, (dlayer, dx) = layer(x), nnx.grad(loss, argnums=(0, 1))(layer, x)
    return y, dlayer["kernel"][...], dx

  for got, want in zip(run(ours), run(theirs), strict=True):
    scale = float(jnp.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * scale)
