"""Convolution of each channel alone: JAX's, in another form on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import cost, nn
from tests import programs

MAP = (2, 5, 7, 6)
# Name, kernel, options, shape of the input; whether it has the other form.
CASES = [
  ("plain", (3, 3), {}, MAP, True),
  ("valid", (3, 2), {"padding": "VALID", "use_bias": False}, MAP, True),
  ("pairs", (3, 4), {"padding": ((0, 2), (1, 3))}, MAP, True),
  ("bfloat16", (3, 3), {"dtype": jnp.bfloat16}, MAP, True),
  ("one axis", (4,), {"padding": "CAUSAL"}, (2, 7, 6), True),
  ("three axes", (2, 1, 3), {}, (2, 3, 2, 4, 6), True),
  ("strides", (3, 3), {"strides": 2}, MAP, False),
  ("dilated", (3, 3), {"kernel_dilation": 2}, MAP, False),
  ("wide borders", (2, 2), {"padding": 2}, MAP, False),
  ("too small a map", (4, 2), {"padding": "VALID"}, (2, 2, 7, 6), False),
  ("groups", (3, 3), {"feature_group_count": 2}, MAP, False),
]


def _layers(kernel, options):
  options = {"feature_group_count": 6, **options}
  make = lambda **more: nnx.Conv(
    6, 6, kernel, **options, **more, rngs=nnx.Rngs(0)
  )
  return make(), make(conv_general_dilated=nn.depthwise_conv)


@pytest.mark.parametrize(
  ("kernel", "options", "shape", "other"),
  [case[1:] for case in CASES],
  ids=[case[0] for case in CASES],
)
def test_it_is_the_convolution(kernel, options, shape, other):
  theirs, mine = _layers(kernel, options)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=shape), jnp.float32)
  g = jnp.asarray(rng.normal(size=jax.eval_shape(mine, x).shape))
  graphs = [nnx.split(layer)[0] for layer in (theirs, mine)]

  def run(graph, state, x):
    apply = lambda state, x: (nnx.merge(graph, state)(x) * g).sum()
    value, back = jax.vjp(apply, state, x)
    return value, back(jnp.ones((), value.dtype))

  @programs.once
  def both(state, x):
    return [run(graph, state, x) for graph in graphs]

  want, got = both(nnx.state(mine), x)
  tol = 2e-2 if "dtype" in options else 1e-5
  for ours, other_one in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    scale = float(jnp.abs(other_one).max())
    np.testing.assert_allclose(ours, other_one, rtol=tol, atol=tol * scale)
  names = {e.primitive.name for e in programs.equations(mine, x)}
  assert ("platform_index" in names) == other


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_each_platform_has_one_form(platform):
  _, mine = _layers((3, 3), {})
  graph, state = nnx.split(mine)
  run = jax.jit(lambda state, x: nnx.merge(graph, state)(x).sum())
  traced = jax.jit(jax.grad(run)).trace(state, jnp.ones(MAP))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert ("stablehlo.convolution" in text) == (platform != "cpu")


def test_the_counter_sees_the_convolution():
  """Of a forward pass and of its gradients, wherever it counts."""
  theirs, mine = _layers((3, 3), {})
  x = jnp.ones(MAP)

  def step(layer, x):
    return nnx.grad(lambda layer, x: layer(x).sum(), argnums=(0, 1))(layer, x)

  for function in (lambda layer, x: layer(x), step):
    one, two = (cost.count(function, layer, x) for layer in (theirs, mine))
    assert one.macs == two.macs
    assert not two.branches
    assert [r.kind for r in one.layers] == [r.kind for r in two.layers]
    same = ("add", "mul", "reduce_sum")
    assert [one.elementwise_by_primitive.get(key) for key in same] == [
      two.elementwise_by_primitive.get(key) for key in same
    ]
