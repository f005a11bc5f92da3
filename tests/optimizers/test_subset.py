"""Masks of a whole model where some of its parameters are trained only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jbin import errors, nn, optimizers, quantizers


class Net(nnx.Module):
  """Two binary layers, and an adapter beside them."""

  def __init__(self, rngs: nnx.Rngs):
    self.a, self.b = (
      nn.Linear(4, 4, kernel_quantizer=quantizers.sign(), rngs=rngs)
      for _ in range(2)
    )
    self.adapter = nnx.LoRA(4, 2, 4, rngs=rngs)

  def __call__(self, x):
    return self.b(self.a(x)) + self.adapter(x)


PART = nnx.All(nnx.Param, nnx.PathContains("a"))
MEMBERS = {
  "bop": lambda mask: optimizers.bop(0.0, 1.0, mask),
  "clip": lambda mask: optimizers.clip_latents(0.1, mask),
  "shrink": lambda mask: optimizers.shrink_latents(mask=mask),
  "proxquant": lambda mask: optimizers.proxquant(strength=0.1, mask=mask),
}
members = pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS)


def _train(make, wrt):
  """A step of NNX's optimizer; the trained variables, and the others."""
  model = Net(nnx.Rngs(0))
  tx = make(optimizers.latent_mask(model))
  optimizer = nnx.Optimizer(model, tx, wrt=wrt)
  grads = jax.tree.map(jnp.ones_like, nnx.state(model, wrt))
  optimizer.update(model, grads, progress=jnp.float32(0))
  return model


def _flat(tree):
  return dict(nnx.to_flat_state(nnx.as_pure(tree)))


@members
@pytest.mark.parametrize("wrt", [PART, nnx.LoRAParam], ids=["a", "adapter"])
def test_a_part_ends_as_in_the_whole(make, wrt):
  got, whole = (_train(make, each) for each in (wrt, nnx.Param))
  old = _flat(nnx.state(Net(nnx.Rngs(0)), nnx.Param))
  want = old | _flat(nnx.state(whole, wrt))
  assert want.keys() == old.keys()
  for path, new in _flat(nnx.state(got, nnx.Param)).items():
    np.testing.assert_array_equal(new, want[path])


@members
def test_masked_and_multi_transform_of_optax(make):
  """They send what is left of a tree, with holes."""
  model = Net(nnx.Rngs(0))
  mask = optimizers.latent_mask(model)
  only = jax.tree.map(bool, mask)
  labels = jax.tree.map(lambda here: "low" if here else "rest", mask)
  direct, masked, multi = (
    _flat(nnx.state(_train(lambda _, tx=tx: tx, nnx.Param), nnx.Param))
    for tx in (
      make(mask),
      optax.masked(make(mask), only),
      optax.multi_transform(
        {"low": make(mask), "rest": optax.identity()}, labels
      ),
    )
  )
  jax.tree.map(np.testing.assert_array_equal, masked, direct)
  jax.tree.map(np.testing.assert_array_equal, multi, direct)


@pytest.mark.parametrize("wrt", [PART, nnx.LoRAParam], ids=["a", "adapter"])
def test_what_build_makes(wrt):
  """Decay, flips and what comes after, with masks of the model."""
  model = Net(nnx.Rngs(0))
  mask = optimizers.latent_mask(model)
  params = nnx.state(model, wrt)
  zeros = jax.tree.map(jnp.zeros_like, params)
  made = optimizers.build(
    optimizers.sgd(),
    0.5,
    0.1,
    decay=optimizers.decay_mask(model, "kernels"),
    flips=optimizers.bop(0.0, 1.0, mask),
    flipped=mask,
    after=[optimizers.clip_latents(1.0, mask)],
  )
  new = _flat(made.update(zeros, made.init(params), params, 0.0)[0])
  for path, old in _flat(params).items():
    share = 1.0 if path[-1] == "bias" else 0.95
    want = jnp.where(old < 0, -1, 1) if path[-1] == "kernel" else old * share
    np.testing.assert_allclose(new[path], want, rtol=1e-6)


def test_a_mask_of_the_part_for_optax_s_own():
  model = Net(nnx.Rngs(0))
  for wrt in (PART, nnx.LoRAParam):
    tx = optax.masked(
      optax.set_to_zero(), optimizers.decay_mask(model, "kernels", wrt)
    )
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, wrt)))
    tree = nnx.state(model, wrt)
    assert jax.tree.structure(nnx.as_pure(tree)) == jax.tree.structure(
      optimizers.latent_mask(model, wrt=wrt)
    )


def test_latent_layers_of_a_part():
  model = Net(nnx.Rngs(0))
  mask = optimizers.latent_mask(model)
  found = optimizers.latent_layers(nnx.state(model, PART), mask)
  np.testing.assert_array_equal(found, [model.a.kernel[...]])


@members
def test_parameters_that_a_mask_does_not_know_are_named(make):
  model = Net(nnx.Rngs(0))
  mask = optimizers.latent_mask(model, wrt=PART)
  tx = make(mask)
  params = nnx.state(model, nnx.Param)
  for tree in (params, nnx.as_pure(params)):
    with pytest.raises(errors.UserError) as caught:
      tx.update(tree, tx.init(tree), tree, progress=0.5)
    assert (
      "nothing of adapter/lora_a, adapter/lora_b, b/bias and 1 more;"
      in str(caught.value)
    )


@members
def test_gradients_of_other_parameters_are_named(make):
  model = Net(nnx.Rngs(0))
  tx = make(optimizers.latent_mask(model))
  params, part = nnx.state(model, nnx.Param), nnx.state(model, PART)
  state = tx.init(part)
  with pytest.raises(errors.UserError, match="adapter/lora_a, adapter/lora_b"):
    tx.update(part, state, params, progress=0.5)
