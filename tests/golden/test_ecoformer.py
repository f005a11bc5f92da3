"""EcoFormer's hash attention against the vectors of the official code.

Sizes and hyper-parameters are those of the file, every key is compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import nn
from jbin.nn import _hash_attention, _hash_learning, _kernel_hash
from tests.golden import compare, folder

FILES = folder.files("ecoformer", "*.npz")


def _turned(array):
  """(n, heads, tokens, ...) to (n, tokens, heads, ...), or back."""
  return jnp.swapaxes(jnp.asarray(array), 1, 2)


def _learning(z):
  return nn.HashLearning(
    similar=int(z["topk"]), iterations=int(z["iterations"])
  )


def _target(found, tokens):
  """S from the entries of its rows that are not 0."""
  columns, sign = np.asarray(found.columns), np.asarray(found.sign)
  matrix = np.zeros((*columns.shape[:-1], tokens))
  for entry in range(columns.shape[-1]):
    place = np.expand_dims(columns[..., entry], -1)
    before = np.take_along_axis(matrix, place, -1)
    after = before + np.expand_dims(sign[..., entry], -1)
    np.put_along_axis(matrix, place, after, -1)
  return matrix


def _learned(z):
  """The hash, made of the tokens alone; each of its parts compared."""
  units = _kernel_hash.unit(_turned(z["qk_raw"]))
  compare.close(_turned(units), z["qk"])
  tokens = _turned(units)
  compare.close(jnp.einsum("nhid,nhjd->nhij", tokens, tokens), z["attn"])
  how = _learning(z)
  found = _hash_learning.pairs(tokens, how.similar)
  target = _target(found, tokens.shape[2])
  np.testing.assert_array_equal(target, z["S"])

  assert z["A_init"].shape[1:] == (int(z["nbits"]), int(z["m"]))
  assert z["perm"].shape == (int(z["m"]),)
  learn = jax.jit(_kernel_hash.learn, static_argnums=3)
  state, history = learn(
    units, jnp.asarray(z["perm"]), jnp.asarray(z["A_init"]), how
  )
  compare.close(state.anchors[None], z["anchor"])
  compare.close(state.means[None, :, None], z["mvec"])
  np.testing.assert_allclose(state.weights, z["A_trained"], rtol=0, atol=1e-4)
  assert history.shape == (int(z["nbits"]), int(z["iterations"]))
  compare.close(history, z["loss_history"])
  return state


def _codes(z, state):
  """The codes, and each step to them."""
  units = _kernel_hash.unit(_turned(z["qk_raw"]))
  apart = _kernel_hash.distances(units, state.anchors)
  compare.close(_turned(apart), z["square_dist"])
  compare.close(_kernel_hash.widths(apart)[:, 0, :, 0], z["sigma"])
  centred = _kernel_hash.kernel(apart) - state.means[None, None]
  compare.close(_turned(centred), z["kernel_centred"])
  # Of the file's hash, not of one that is within 1e-4 of it.
  stored = state._replace(weights=jnp.asarray(z["A_trained"]))
  response = _kernel_hash.responses(units, stored)
  compare.close(_turned(response), z["proj"])
  for hashed in (stored, state):
    codes = _kernel_hash.codes(units, hashed)
    np.testing.assert_array_equal(_turned(codes), z["codes"])
  return stored


def _attention(z, state, shift, tokens, value):
  codes = _kernel_hash.codes(_kernel_hash.unit(tokens), state)
  constant = codes.shape[-1] + 1
  return _hash_attention.attend(codes, value, constant, shift)


def hash_attention(z):
  state = _codes(z, _learned(z))
  run = functools.partial(_attention, z, state, "own")
  given = _turned(z["qk_raw"]), _turned(z["v"])
  out, (dqk, dv) = compare.pull(run, _turned(z["grad_out"]), *given)
  compare.close(_turned(out), z["out"])
  compare.close_gradient(_turned(dqk), z["grad_qk_raw"], 1e-5)
  compare.close_gradient(_turned(dv), z["grad_v"], 1e-5)
  other = _attention(z, state, "consistent", *given)
  compare.close(_turned(other), z["out_consistent"])
  for shift, name in (("own", "out"), ("consistent", "out_consistent")):
    _layer(z, state, shift, name)


def _layer(z, state, shift, name):
  """The module: half of its heads get the file's queries, half its values."""
  batch, heads, tokens, size = z["qk_raw"].shape
  features = 2 * heads * size
  layer = nn.HashAttention(
    features,
    2 * heads,
    bits=int(z["nbits"]),
    anchors=int(z["m"]),
    shift=shift,
    rngs=nnx.Rngs(0),
  )
  same = jnp.eye(features)
  swapped = jnp.roll(same, features // 2, 1)
  for part, matrix in (("qk", same), ("value", swapped), ("out", same)):
    kernel = getattr(layer, part).kernel
    kernel[...] = matrix.reshape(kernel.shape)
  for part, array in state._asdict().items():
    getattr(layer.hash, part)[...] = jnp.concatenate([array, array])
  layer.hash.fitted[...] = jnp.ones((), bool)

  def flat(left, right):
    both = jnp.concatenate([_turned(left), _turned(right)], 2)
    return both.reshape(batch, tokens, features)

  grad = flat(z["grad_out"], np.zeros_like(z["grad_out"]))
  y, _, _, dx = compare.vjp_of(layer, flat(z["qk_raw"], z["v"]), grad)
  shape = (batch, tokens, 2 * heads, size)
  compare.close(_turned(y.reshape(shape)[:, :, :heads]), z[name])
  if shift == "own":
    dx = _turned(dx.reshape(shape))
    compare.close_gradient(dx[:, :heads], z["grad_qk_raw"], 1e-5)
    compare.close_gradient(dx[:, heads:], z["grad_v"], 1e-5)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, {"hash_attention": hash_attention})
  with np.load(file) as archive:
    reader = compare.Reader(dict(archive))
    check(reader)
    reader.all_read()
