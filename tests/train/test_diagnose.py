"""The first value that is not finite is found, named, and not confused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import nn, quantizers
from jbin.train import diagnose, sharding

BATCH = {"image": jnp.ones((8, 3))}


@pytest.fixture
def params():
  return {"stem": {"kernel": jnp.ones((3, 4))}, "head": {"w": jnp.ones((4, 2))}}


def _net(between, last=jnp.sum):
  """(params, batch) -> loss, of two products and something between them."""

  def objective(params, batch):
    x = between(batch["image"] @ params["stem"]["kernel"])
    return last(x @ params["head"]["w"]), {"width": jnp.float32(4)}

  return objective


def test_a_healthy_step(params):
  said = diagnose.why(_net(jnp.tanh), params, BATCH)
  assert "the loss and all gradients are finite" in said
  assert diagnose.first_bad(_net(jnp.tanh), params, BATCH) is None


def test_a_spike(params):
  objective = _net(lambda x: 3.0 * x)
  said = diagnose.why(objective, params, BATCH, spike=2.0, norm=10.0)
  # Of 'w': 8 entries of 8 * 9 each; of 'kernel': 12 of 8 * 6.
  assert said == (
    "the norm of the gradient is 263, over guard.spike=2 times its running"
    " mean, 10; most of it is that of 'head/w'"
  )
  said = diagnose.why(objective, params, BATCH, spike=30.0, norm=10.0)
  assert "the loss and all gradients are finite" in said


def test_an_input(params):
  image = BATCH["image"].at[1, 2].set(jnp.nan).at[0, 0].set(jnp.inf)
  assert diagnose.why(_net(jnp.tanh), params, {"image": image}) == (
    "input 'image' of the batch has 2 of 24 values not finite"
  )


def test_an_input_that_is_not_used_is_not_blamed(params):
  batch = {**BATCH, "extra": jnp.full((3,), jnp.nan)}
  assert diagnose.first_bad(_net(jnp.tanh), params, batch) is None


def test_a_parameter(params):
  params["head"]["w"] = params["head"]["w"].at[0, 0].set(jnp.nan)
  assert diagnose.why(_net(jnp.tanh), params, BATCH) == (
    "parameter 'head/w' is not finite already: 1 of 8 values not finite"
  )


def test_a_logarithm_of_zero(params):
  said = diagnose.why(_net(lambda x: jnp.log(x - 3.0)), params, BATCH)
  assert said == (
    "'log' after layer 'stem' gives inf from finite operands, at most 0"
    " (float32)"
  )


def test_a_product(params):
  params["stem"]["kernel"] *= 3e38
  said = diagnose.why(_net(jnp.tanh), params, BATCH)
  assert said is not None  # tanh makes it finite again, forward
  said = diagnose.why(_net(lambda x: x), params, BATCH)
  assert said == (
    "layer 'stem' (dot_general) gives inf from finite operands, at most 1"
    " (float32) and 3e+38 (float32)"
  )


def test_an_overflow_is_named_behind_the_nan_that_it_makes(params):
  soft = lambda x: (h := jnp.exp(30 * x.astype(jnp.bfloat16))) / h.sum()
  said = diagnose.why(_net(soft), params, BATCH)
  assert "'div' after layer 'stem' gives NaN from infinite operands" in said
  assert "'exp' after layer 'stem' gives inf from finite operands" in said
  assert "(bfloat16)" in said


def test_a_gradient_alone(params):
  # The slope of a square root at 0 is infinite, its value is not.
  said = diagnose.why(_net(lambda x: jnp.sqrt(x - 3.0)), params, BATCH)
  assert said.startswith(
    "the loss is finite, and the gradient of 'stem/kernel' is not: 'div' after"
    " layer 'stem' gives inf from finite operands"
  )


def test_a_nan_in_the_backward_pass(params):
  # 0 * inf: a `where` keeps the NaN from the value, and not from the gradient.
  safe = lambda x: jnp.where(x > 3.0, jnp.log(x - 3.0), 0.0)
  said = diagnose.why(_net(safe), params, BATCH)
  assert "gradient of 'stem/kernel' is not: " in said
  assert "in the backward pass, gives NaN" in said


@pytest.mark.parametrize("remat", [False, True])
def test_a_block_of_a_stack(remat):
  scales = jnp.asarray([1.0, 1.0, -1.0, 1.0])
  kernels = scales[:, None, None] * jnp.eye(3)[None]
  params = {"blocks": {"dense": {"kernel": kernels}}}

  def block(x, kernel):
    return jnp.log(x @ kernel), None

  block = jax.checkpoint(block) if remat else block

  def objective(params, batch):
    kernel = params["blocks"]["dense"]["kernel"]
    x, _ = jax.lax.scan(block, 20 * batch["image"], kernel)
    return x.sum(), {}

  said = diagnose.why(objective, params, BATCH)
  assert said.startswith(
    "'log' after layer 'blocks/dense' in trip 2 of 4 gives NaN from finite"
  )


class _Block(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x):
    return jnp.sqrt(self.dense(x))


def test_a_stack_of_modules():
  @nnx.vmap
  def create(rngs):
    return _Block(rngs)

  stack = create(nnx.Rngs(0).split(3))
  stack.dense.kernel[...] = 1e-3 * stack.dense.kernel[...]
  stack.dense.bias[...] = jnp.ones((3, 3)).at[1].set(-1.0)
  graphdef, params = nnx.split(stack, nnx.Param)

  def objective(params, batch):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def through(x, block):
      return block(x)

    return through(batch["image"], nnx.merge(graphdef, params)).sum(), {}

  said = diagnose.why(objective, params, BATCH)
  assert said.startswith(
    "'sqrt' after layer 'dense' in trip 1 of 3 gives NaN from finite operands"
  )


def test_loops_and_branches(params):
  def grow(x):
    x, _ = jax.lax.while_loop(
      lambda c: c[1] < 5, lambda c: (c[0] * 1e20, c[1] + 1), (x, 0)
    )
    return x

  said = diagnose.first_bad(_net(grow), params, BATCH)
  assert "'mul' after layer 'stem' in trip 1 gives inf" in said
  either = lambda x: jax.lax.cond(
    x.sum() > 0, lambda x: 1 / (x - 3), jnp.exp, x
  )
  said = diagnose.first_bad(_net(either), params, BATCH)
  assert "'div' after layer 'stem' gives inf" in said


def test_within_a_quantizer():
  # A column of zeros has the scale 0 / 0 in a quantizer that does not mind.
  @jax.custom_vjp
  def scaled(kernel):
    return jnp.sign(kernel) * kernel / jnp.abs(kernel).max(0, keepdims=True)

  scaled.defvjp(lambda k: (scaled(k), None), lambda _, g: (g,))
  kernel = jnp.ones((3, 4)).at[:, 1].set(0.0)
  params = {"layers": {"0": {"kernel": kernel}}}
  objective = lambda p, b: (
    (b["image"] @ scaled(p["layers"]["0"]["kernel"])).sum(),
    {},
  )
  assert diagnose.why(objective, params, BATCH) == (
    "layer 'layers/0' (div) gives NaN from finite operands, at most 1 (float32)"
    " and 1 (float32)"
  )


def test_a_binary_layer():
  layer = nn.Linear(
    *(3, 4),
    input_quantizer=quantizers.sign(),
    kernel_quantizer=quantizers.xnor(),
    rngs=nnx.Rngs(0),
  )
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  def objective(params, batch):
    y = nnx.merge(graphdef, params, rest)(batch["image"])
    return jnp.log(y - y).sum(), {}

  said = diagnose.why(objective, params, BATCH)
  assert said.startswith("'log' after layer ")
  assert "gives inf from finite operands" in said
  kernel = params["kernel"].get_value()
  params["kernel"].set_value(kernel.at[0, 0].set(jnp.inf))
  # Its sign is finite, and its scale is cut; the next parameter is not.
  objective = lambda params, batch: (
    nnx.merge(graphdef, params, rest)(batch["image"]).sum(),
    {},
  )
  assert diagnose.why(objective, params, BATCH) == (
    "parameter 'kernel' is not finite already: 1 of 12 values not finite; the"
    " loss and all gradients are finite with it"
  )


def test_masks_of_minus_infinity_are_meant():
  layer = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  def masked(where):
    def objective(params, batch):
      def attend(query, key, value, **_):
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        chance = jax.nn.softmax(jnp.where(where, scores, -jnp.inf))
        return jnp.einsum("bhqk,bkhd->bqhd", chance, value)

      model = nnx.merge(graphdef, params, rest)
      model.attention_fn = attend
      return model(batch["x"]).sum(), {}

    return objective

  batch = {"x": jax.random.normal(jax.random.key(0), (2, 3, 4))}
  causal = jnp.tril(jnp.ones((3, 3), bool))
  assert "all gradients are finite" in diagnose.why(
    masked(causal), params, batch
  )
  # A row without anything to look at: here the infinity gets through.
  said = diagnose.why(masked(causal.at[1].set(False)), params, batch)
  assert said.startswith("'sub' after layer 'key' gives NaN from infinite")
  assert "a constant of the program is not finite" in said


def test_on_a_mesh(params):
  mesh = sharding.make_mesh(2, 4)
  image = BATCH["image"].at[5, 0].set(jnp.nan)
  batch = sharding.put(mesh, {"image": np.asarray(image)}, split=True)
  params = sharding.put(mesh, params)
  assert diagnose.why(_net(jnp.tanh), params, batch) == (
    "input 'image' of the batch has 1 of 24 values not finite"
  )
