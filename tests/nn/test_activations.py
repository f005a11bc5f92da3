"""Two slopes, squeeze-and-excite and the shortcut against plain numpy."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import bits, errors, nn, quantizers
from tests import programs


def _random(*shape):
  return np.random.default_rng(len(shape)).normal(size=shape).astype("f4")


@dataclasses.dataclass(frozen=True)
class Bend:
  """An activation of two slopes: its names, and its formula in numpy.

  Attributes:
    make: of (features).
    initial: name -> initial value.
    parts: (x, values) -> (u, slope on the right, on the left, at the knee,
      what is added).
    gradients: (g, u, slope) -> name -> the gradient before it is summed.
    mark: the operation's name in the cost report.
  """

  make: Callable[..., nnx.Module]
  initial: Mapping[str, float]
  parts: Callable[..., tuple]
  gradients: Callable[..., Mapping[str, np.ndarray]]
  mark: str


BENDS = {
  "DPReLU": Bend(
    nn.DPReLU,
    {"bias_x": 0, "bias_y": 0, "neg_slope": 0.25, "pos_slope": 1},
    lambda x, v: (
      x - v["bias_x"],
      v["pos_slope"],
      v["neg_slope"],
      v["pos_slope"],
      -v["bias_y"],
    ),
    lambda g, u, slope: {
      "bias_x": -g * slope,
      "bias_y": -g,
      "neg_slope": g * u * (u < 0),
      "pos_slope": g * u * (u > 0),
    },
    "bprelu",
  ),
  "RPReLU": Bend(
    nn.RPReLU,
    {"shift_in": 0, "slope": 0.25, "shift_out": 0},
    lambda x, v: (
      x + v["shift_in"],
      np.float32(1),
      v["slope"],
      v["slope"],
      v["shift_out"],
    ),
    lambda g, u, slope: {
      "shift_in": g * slope,
      "slope": g * u * (u < 0),
      "shift_out": g,
    },
    "rprelu",
  ),
  "Maxout": Bend(
    nn.Maxout,
    {"neg_slope": 0.25, "pos_slope": 1},
    lambda x, v: (
      x,
      v["pos_slope"],
      v["neg_slope"],
      np.float32(0),
      np.float32(0),
    ),
    lambda g, u, slope: {
      "neg_slope": g * u * (u < 0),
      "pos_slope": g * u * (u > 0),
    },
    "maxout",
  ),
}
bends = pytest.mark.parametrize("bend", BENDS.values(), ids=BENDS)


@bends
def test_two_slopes(bend):
  layer = bend.make(3)
  for name, want in bend.initial.items():
    value = getattr(layer, name)[...]
    np.testing.assert_array_equal(value, np.full(3, want, np.float32))
  values = {
    name: _random(3, 1, 1)[:, 0, 0] + i for i, name in enumerate(bend.initial)
  }
  for name, value in values.items():
    getattr(layer, name)[...] = jnp.asarray(value)
  x, g = _random(2, 4, 5, 3), _random(2, 4, 5, 3)[::-1]
  # The knee itself.
  x[0, 0, 0] = 0
  x[0, 0, 0] = -bend.parts(x, values)[0][0, 0, 0]
  u, right, left, knee, added = bend.parts(x, values)
  assert (u[0, 0, 0] == 0).all()
  slope = np.where(u > 0, right, np.where(u < 0, left, knee))
  graph, state = nnx.split(layer)
  y, pull = jax.vjp(lambda s, x: nnx.merge(graph, s)(x), state, x)
  np.testing.assert_allclose(y, slope * u + added, rtol=1e-6, atol=1e-6)
  gradients, dx = pull(jnp.asarray(g))
  np.testing.assert_allclose(dx, g * slope, rtol=1e-6)
  wanted = bend.gradients(g, u, slope)
  assert set(wanted) == set(bend.initial)
  for name, value in wanted.items():
    np.testing.assert_allclose(
      gradients[name][...], value.sum((0, 1, 2)), rtol=1e-4, atol=1e-5
    )
  ((said, aval),) = programs.tags(layer, x)
  assert (said, aval.shape) == (bits.OpTag(bend.mark, 1), x.shape)


@bends
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_two_slopes_in_other_dtypes(bend, dtype):
  layer = bend.make(3, dtype=dtype)
  assert layer(jnp.ones((2, 3))).dtype == (dtype or jnp.float32)
  assert layer(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16
  assert layer(jnp.ones(3)).shape == (3,)


@pytest.mark.parametrize(
  ("layer", "right"),
  [
    (nn.DPReLU(3, neg_slope=0.5, pos_slope=2.0), 2),
    (nn.RPReLU(3, slope=0.5), 1),
    (nn.Maxout(3, neg_slope=0.5, pos_slope=2.0), 2),
  ],
)
def test_initial_slopes(layer, right):
  np.testing.assert_array_equal(
    layer(jnp.array([[-1.0, 0, 1]])), [[-0.5, 0, right]]
  )


@pytest.mark.parametrize("quantized", [False, True])
def test_squeeze_excite(quantized):
  options = {}
  if quantized:
    options = {
      "input_quantizers": (quantizers.absmax(4, ()), quantizers.absmax(8, ())),
      "kernel_quantizer": quantizers.poke_weight(4),
    }
  layer = nn.SqueezeExcite(4, 6, 2, rngs=nnx.Rngs(1), **options)
  x = _random(3, 5, 2, 4)

  def part(fc, x, quantizer):
    kernel = fc.kernel[...]
    if quantized:
      x = quantizer(x).value
      kernel = quantizers.poke_weight(4)(kernel).value
    product = np.asarray(x) @ np.asarray(kernel)[0, 0]
    return jnp.asarray(product + np.asarray(fc.bias[...]))

  first, second = options.get("input_quantizers", (None, None))
  mean = jnp.asarray(x.mean((1, 2), keepdims=True))
  hidden = jnp.maximum(part(layer.fc1, mean, first), 0)
  want = np.clip(part(layer.fc2, hidden, second) + 3, 0, 6) / 6
  got = layer(x)
  assert got.shape == (3, 1, 1, 6)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  operations = [
    (tag.name, int(np.prod(aval.shape)))
    for tag, aval in programs.tags(layer, x)
    if isinstance(tag, bits.OpTag)
  ]
  assert operations == [
    ("se_global_pool_add", x.size),
    ("se_global_pool_mul", 3 * 4),
    ("se_relu", 3 * 2),
    ("se_relu6", 3 * 6),
  ]


def _mean_of_nine(r):
  """3x3, stride 2, SAME; zeros are counted."""
  n, h, w, c = r.shape
  rows, columns = -(-h // 2), -(-w // 2)
  low = [max((o - 1) * 2 + 3 - s, 0) // 2 for o, s in ((rows, h), (columns, w))]
  padded = np.pad(r, [(0, 0), (low[0], 3), (low[1], 3), (0, 0)])
  out = np.zeros((n, rows, columns, c), np.float32)
  for i in range(rows):
    for j in range(columns):
      window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
      out[:, i, j] = window.sum((1, 2)) / 9
  return out


def _shortcut(r, shape, method):
  have, channels = r.shape[-1], shape[-1]
  if have > channels:
    n = have // channels
    r = r[..., : n * channels].reshape(*r.shape[:-1], channels, n).mean(-1)
  elif method == "zeropad":
    r = np.pad(r, [(0, 0)] * 3 + [(0, channels - have)])
  else:
    r = np.concatenate([r] * (channels // have + 1), -1)[..., :channels]
  return r if r.shape == shape else _mean_of_nine(r)


@pytest.mark.parametrize("method", ["zeropad", "tile"])
@pytest.mark.parametrize(
  ("shape", "into"),
  [
    ((2, 4, 4, 3), (2, 4, 4, 3)),
    ((2, 4, 4, 3), (2, 4, 4, 6)),
    ((2, 4, 4, 3), (2, 4, 4, 7)),
    ((2, 4, 4, 7), (2, 4, 4, 3)),
    ((2, 4, 4, 8), (2, 2, 2, 4)),
    ((2, 5, 7, 3), (2, 3, 4, 5)),
    ((1, 1, 2, 3), (1, 1, 1, 3)),
  ],
)
def test_reshape_add(shape, into, method):
  r, x = _random(*shape), _random(*into)
  got = nn.reshape_add(r, x, method)
  np.testing.assert_allclose(
    got, x + _shortcut(r, into, method), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  "into", [(2, 3, 4, 3), (2, 8, 8, 3), (2, 1, 1, 3), (3, 4, 4, 3)]
)
def test_reshape_add_refuses_other_positions(into):
  with pytest.raises(errors.UserError, match="positions must be equal"):
    nn.reshape_add(jnp.ones((2, 4, 4, 3)), jnp.ones(into), "tile")
