"""Masks from a model: which weights, and how they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jbin import nn, optimizers, quantizers


class Net(nnx.Module):
  """Weights of 1, 2 and 8 bits, float ones, a stack, and a turned kernel."""

  def __init__(self, rngs: nnx.Rngs):
    given = lambda spec: {"kernel_quantizer": spec, "rngs": rngs}
    late = quantizers.delayed(quantizers.xnor(), 0.5)
    self.one = nn.Linear(4, 5, **given(quantizers.sign()))
    self.late = nn.Linear(4, 5, **given(late))
    self.two = nn.Linear(4, 5, **given(quantizers.noop(2)))
    self.eight = nn.Conv(4, 5, (3, 3), **given(quantizers.absmax(8, (0,))))
    self.float = nnx.Linear(4, 5, rngs=rngs)
    self.glorot = nn.Linear(4, 5, **given(quantizers.binaryconnect("glorot")))
    self.turned = nn.ConvTranspose(
      4, 6, (3, 2), transpose_kernel=True, **given(quantizers.sign())
    )
    make = lambda rngs: nn.Linear(
      4, 5, kernel_quantizer=quantizers.sign(), rngs=rngs
    )
    self.stack = nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(3))


@pytest.fixture(scope="module")
def net():
  return Net(nnx.Rngs(0))


def _flat(tree):
  return dict(nnx.to_flat_state(nnx.as_pure(tree)))


ONE = {"one", "late", "glorot", "turned", "stack"}


@pytest.mark.parametrize(
  ("bits", "layers"),
  [(1, ONE), (2, {*ONE, "two"}), (8, {*ONE, "two", "eight"})],
)
def test_only_kernels_of_narrow_quantizers(net, bits, layers):
  flat = _flat(optimizers.latent_mask(net, bits))
  assert {path for path, here in flat.items() if here} == {
    (layer, "kernel") for layer in layers
  }


def test_an_abstract_model_has_the_same_mask(net):
  abstract = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
  mine, theirs = map(optimizers.latent_mask, (abstract, net))
  assert jax.tree.leaves(mine) == jax.tree.leaves(theirs)
  params = nnx.split(net, nnx.Param, ...)[1]
  for state in (params, nnx.as_pure(params)):  # of variables, of arrays
    tx = optimizers.clip_latents(1.0, theirs)
    updates, _ = tx.update(state, tx.init(params), state)
    assert jax.tree.structure(updates) == jax.tree.structure(state)


def test_how_they_lie(net):
  flat = _flat(optimizers.latent_mask(net))
  assert flat["one", "kernel"] == optimizers.Latent()
  assert flat["late", "kernel"] == optimizers.Latent()
  assert flat["stack", "kernel"] == optimizers.Latent(stack=1)
  assert flat["glorot", "kernel"].level == pytest.approx(np.sqrt(1.5 / 9))
  assert flat["turned", "kernel"].layout is not None


def test_layers_are_as_their_quantizers_see_them(net):
  params = nnx.state(net, nnx.Param)
  mask = optimizers.latent_mask(net, 1)
  layers = optimizers.latent_layers(params, mask)
  shapes = sorted(w.shape for w in layers)
  assert shapes == sorted([(4, 5)] * 6 + [(3, 2, 4, 6)])
  seen = net.turned.kernel_quantizer(net.turned.kernel[...]).value
  turned = next(w for w in layers if w.ndim == 4)
  np.testing.assert_array_equal(jnp.where(turned < 0, -1, 1), seen)

  def size(params):
    return sum(jnp.sum(w) for w in optimizers.latent_layers(params, mask))

  for path, grad in _flat(jax.grad(size)(params)).items():
    latent = path[0] in ONE and path[-1] == "kernel"
    np.testing.assert_array_equal(grad, float(latent))


def test_a_clip_counts_in_the_quantizer_s_own_level(net):
  params = nnx.state(net, nnx.Param)
  tx = optimizers.clip_latents(1.0, optimizers.latent_mask(net, 1))
  sent = jax.tree.map(lambda w: jnp.full_like(w, 9.0), params)
  updates, _ = tx.update(sent, tx.init(params), params)
  ends = _flat(jax.tree.map(jnp.add, params, updates))
  h = np.float32(np.sqrt(1.5 / 9))
  np.testing.assert_allclose(ends["glorot", "kernel"], h, rtol=1e-6)
  np.testing.assert_allclose(ends["stack", "kernel"], 1.0, rtol=1e-6)
  assert (ends["two", "kernel"] > 8).all()
  assert (ends["one", "bias"] > 8).all()


def test_nnx_s_optimizer_takes_them(net):
  """Its state is made of variables and updated as arrays."""
  model = nnx.clone(net)
  mask = optimizers.latent_mask(model, 1)
  others = lambda params: jax.tree.map(
    lambda here, part: jax.tree.map(lambda _: not here, part), mask, params
  )
  tx = optax.chain(
    optax.masked(optax.adam(0.5), others),
    optimizers.bop(0.0, 1.0, mask),
    optimizers.clip_latents(1.0, optimizers.latent_mask(model, 2)),
    optax.masked(optax.identity(), optimizers.decay_mask(model, "float")),
  )
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer):
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.update(model, grads)

  for _ in range(3):
    step(model, optimizer)
  np.testing.assert_array_equal(model.stack.kernel[...], -1)
  assert jnp.abs(model.two.kernel[...]).max() <= 1
  np.testing.assert_allclose(
    model.float.kernel[...], net.float.kernel[...] - 1.5, atol=1e-4
  )
