"""Running a layer, and comparing two of them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def state_of(module):
  """{path: (kind, array)} of every variable."""
  return {
    path: (type(variable), variable[...])
    for path, variable in nnx.to_flat_state(nnx.state(module))
  }


def run(call, module, x):
  """Output, gradients of parameters and of `x` where it is floating."""
  graph, params, rest = nnx.split(module, nnx.Param, ...)
  fresh = functools.partial(jax.tree.map, lambda leaf: leaf)
  smooth = jnp.issubdtype(x.dtype, jnp.floating)

  def loss(params, x):
    y = call(nnx.merge(graph, params, fresh(rest)), x)
    return (y * jnp.sin(jnp.arange(y.size).reshape(y.shape))).sum(), y

  both = (0, 1) if smooth else (0,)
  gradients, y = jax.grad(loss, both, has_aux=True)(params, x)
  return y, [nnx.to_pure_dict(gradients[0]), *gradients[1:]]


def same_variables(mine, theirs):
  """Both have the same paths, kinds and values."""
  ours, flax = state_of(mine), state_of(theirs)
  assert list(ours) == list(flax)
  for path, (kind, value) in flax.items():
    assert issubclass(ours[path][0], kind)
    assert ours[path][1].dtype == value.dtype
    pair = (ours[path][1], value)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
      pair = tuple(jax.random.key_data(key) for key in pair)
    np.testing.assert_array_equal(*pair, err_msg=str(path))


def same_program(mine, theirs, x, call=lambda layer, x: layer(x)):
  """Outputs and gradients are bit for bit those of the same equations."""
  texts = [
    str(jax.make_jaxpr(functools.partial(run, call, layer))(x))
    for layer in (mine, theirs)
  ]
  assert "0x" not in re.sub("0xX+", "", texts[0])
  assert texts[0] == texts[1]


def equal(mine, theirs, x, call=lambda layer, x: layer(x)):
  """Outputs and gradients are equal to the last bit."""
  got, want = (
    jax.jit(functools.partial(run, call, layer))(x) for layer in (mine, theirs)
  )
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def close(got, want, tolerance):
  """Trees of arrays, relative to the greatest entry of each."""
  leaves = jax.tree.leaves_with_path(want)
  for mine, (path, right) in zip(jax.tree.leaves(got), leaves, strict=True):
    assert mine.dtype == right.dtype, path
    right = np.asarray(right, np.float32)
    np.testing.assert_allclose(
      np.asarray(mine, np.float32),
      right,
      rtol=tolerance,
      atol=tolerance * max(float(abs(right).max()), 1e-30),
      err_msg=str(path),
    )
