"""What weight decay reaches: what a parameter is, not how many axes it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, methods, models, nn, optimizers, quantizers


def _flat(tree):
  return dict(nnx.to_flat_state(nnx.as_pure(tree)))


def _reached(mask):
  return {
    "/".join(map(str, path)) for path, here in _flat(mask).items() if here
  }


class Net(nnx.Module):
  """Low-bit and float kernels, one layer and a stack, learned bounds."""

  def __init__(self, rngs: nnx.Rngs):
    make = lambda rngs: nn.Linear(
      4,
      5,
      input_quantizer=quantizers.pact(),
      kernel_quantizer=quantizers.sign(),
      rngs=rngs,
    )
    self.low = make(rngs)
    self.float = nnx.Linear(4, 5, rngs=rngs)
    self.stack = nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(3))
    self.norms = nnx.vmap(lambda rngs: nnx.LayerNorm(5, rngs=rngs))(
      rngs.split(3)
    )


@pytest.fixture(scope="module")
def net():
  return Net(nnx.Rngs(0))


LOW = {"low/kernel", "stack/kernel"}
BOUNDS = {f"{at}/input_quantizer/learned/alpha" for at in ("low", "stack")}


@pytest.mark.parametrize(
  ("reach", "want"),
  [
    ("kernels", {*LOW, "float/kernel"}),
    ("float", {"float/kernel"}),
    ("latents", LOW),
    ("learned", {*LOW, "float/kernel", *BOUNDS}),
    (
      "all",
      {*LOW, *BOUNDS, *(f"{p}/bias" for p in ("low", "float", "stack"))}
      | {"float/kernel", "norms/scale", "norms/bias"},
    ),
  ],
)
def test_decay_reaches_what_it_says(net, reach, want):
  assert _reached(optimizers.decay_mask(net, reach)) == want


def test_an_unknown_reach_is_a_clear_error(net):
  with pytest.raises(errors.UserError, match="did you mean kernels"):
    optimizers.decay_mask(net, "kernel")


def test_trees_of_arrays_go_by_name_and_rank():
  shapes = {"kernel": (3, 3, 2, 2), "w": (2, 2), "bias": (2,), "s": ()}
  params = {key: jnp.zeros(shape) for key, shape in shapes.items()}
  assert optimizers.decayed(params) == {
    "kernel": True,
    "w": True,
    "bias": False,
    "s": False,
  }
  assert optimizers.decayed(jnp.zeros((2, 2)))
  assert optimizers.decayed([jnp.zeros(2)]) == [False]


def test_a_name_alone_spares_no_matrix():
  """What is spared says so, in a stack too; the tree has the model's shape."""

  class Own(nnx.Module):
    def __init__(self, rngs):
      start = jnp.ones((2, 3))
      self.table = nnx.Param(start)
      self.token = nn.undecayed(start)
      self.positions = nn.undecayed(start)

  model = nn.stack(Own, 2, nnx.Rngs(0))
  params = nnx.state(model, nnx.Param)
  mask = optimizers.decayed(params)
  assert _reached(mask) == {"table"}
  assert jax.tree.structure(mask) == jax.tree.structure(params)
  assert _reached(optimizers.decay_mask(model, "float")) == {"table"}


def _low(inputs, kernels):
  return lambda rngs: nn.Conv(
    64,
    8,
    (3, 3),
    input_quantizer=inputs,
    kernel_quantizer=kernels,
    rngs=rngs,
  )


LAYERS = {
  **{
    name: _low(pair["input_quantizer"], pair["kernel_quantizer"])
    for name in methods.REGISTRY
    for pair in [methods.REGISTRY.get(name)()]
  },
  "fbi by column": _low(None, quantizers.fbi_weight("column")),
  "batch norm": lambda rngs: nnx.BatchNorm(4, rngs=rngs),
  "group norm": lambda rngs: nnx.GroupNorm(4, 2, rngs=rngs),
  "weight norm": lambda rngs: nnx.WeightNorm(
    nnx.Linear(4, 3, rngs=rngs), rngs=rngs
  ),
  "attention": lambda rngs: nnx.MultiHeadAttention(
    2, 8, decode=False, rngs=rngs
  ),
  "lstm": lambda rngs: nnx.OptimizedLSTMCell(4, 3, rngs=rngs),
  "lora": lambda rngs: nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs),
  "embed": lambda rngs: nn.Embed(4, 3, rngs=rngs),
  "prelu": lambda rngs: nnx.PReLU(),
  "dprelu": lambda rngs: nn.DPReLU(4),
  "rprelu": lambda rngs: nn.RPReLU(4),
  "maxout": lambda rngs: nn.Maxout(4),
  "spatial scale": lambda rngs: nn.SpatialScale(3, 4),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_stack_decays_as_its_layers(make):
  def mask(make, rngs):
    model = nnx.eval_shape(lambda: make(rngs()))
    return _flat(optimizers.decayed(nnx.state(model, nnx.Param)))

  stack = nnx.vmap(make, in_axes=0, out_axes=0)
  alone = mask(make, lambda: nnx.Rngs(0))
  assert mask(stack, lambda: nnx.Rngs(0).split(2)) == alone
  twice = nnx.vmap(stack, in_axes=0, out_axes=0)
  assert mask(twice, lambda: nnx.Rngs(0).split((2, 2))) == alone


MODELS = [
  name
  for name in models.REGISTRY
  if models.REGISTRY.get(name).__module__.startswith("jbin.")
]


@pytest.mark.parametrize("name", MODELS)
def test_models_decay_by_the_rank_of_a_layer(name):
  """But for biases of heads, class tokens and learned positions."""
  make = models.REGISTRY.get(name)
  model = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
  params = nnx.state(model, nnx.Param)
  apart = {"bias", "token", "positions", "table"}
  rank = {
    path: w.ndim - nn.stack_axes(w) > 1 and path[-1] not in apart
    for path, w in nnx.to_flat_state(params)
  }
  assert _flat(optimizers.decayed(params)) == rank


def test_pact_s_bound_is_drawn_to_zero(net):
  """The paper's L2 term: d/dalpha of 0.5 * decay * alpha^2, by descent."""
  params = nnx.state(net, nnx.Param)
  zeros = jax.tree.map(jnp.zeros_like, params)

  def after(reach, mode):
    made = optimizers.build(
      optimizers.sgd(),
      0.5,
      0.1,
      mode,
      decay=optimizers.decay_mask(net, reach),
    )
    return _flat(made.update(zeros, made.init(params), params, 0.0)[0])

  for mode in ("l2", "decoupled"):
    new, other = after("learned", mode), after("kernels", mode)
    for layer in ("low", "stack"):
      alpha = (layer, "input_quantizer", "learned", "alpha")
      np.testing.assert_allclose(new[alpha], 10 * (1 - 0.5 * 0.1), rtol=1e-6)
      np.testing.assert_array_equal(other[alpha], 10)
      bias = (layer, "bias")
      np.testing.assert_array_equal(new[bias], _flat(params)[bias])
