"""One batch sets what activation quantizers learn; it says what it cannot."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jbin import errors, nn, quantizers

LSQ = quantizers.lsq(4)


def _layer(rngs, **slots):
  return nn.Linear(4, 4, rngs=rngs, **(slots or {"input_quantizer": LSQ}))


class Branches(nnx.Module):
  """One of two layers, as an argument says that is no array."""

  def __init__(self, rngs):
    self.left = _layer(rngs)
    self.right = _layer(rngs)

  def __call__(self, x, *, sides="both", scale=1.0, extra=None):
    y = scale * x["image"]
    if sides in ("both", "left"):
      y = self.left(y)
    if sides in ("both", "right"):
      y = self.right(y)
    return y if extra is None else y + extra


class Scanned(nnx.Module):
  """A stack under a scan of plain JAX."""

  def __init__(self, rngs):
    self.stack = nnx.vmap(_layer)(rngs.split(2))

  def __call__(self, x):
    return jax.lax.scan(lambda x, f: (f(x), None), x, self.stack)[0]


def _x():
  x = np.random.default_rng(0).normal(size=(8, 4))
  return {"image": jnp.asarray(x, jnp.float32)}


def _step(layer):
  return float(layer.input_quantizer.learned["step"][...].item())


def test_arguments_that_are_no_arrays_pass_through():
  model, x = Branches(nnx.Rngs(0)), _x()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    nn.calibrate(model, x, sides="both", scale=2.0, extra=np.ones((1, 4)))
  want = LSQ.parameters(4, 2.0 * x["image"])["step"]
  np.testing.assert_allclose(_step(model.left), want, rtol=1e-6)


def test_what_is_not_reached_is_named_and_left():
  model, x = Branches(nnx.Rngs(0)), _x()
  before = _step(model.right)
  with pytest.warns(errors.JbinWarning, match="set 'right/input_quantizer':"):
    nn.calibrate(model, x, sides="left")
  assert _step(model.right) == before
  assert _step(model.left) != before


@pytest.mark.parametrize(
  ("make", "x", "options", "text"),
  [
    (
      Branches,
      _x(),
      {"sides": "none"},
      "not set 'left/input_quantizer', 'right/input_quantizer'",
    ),
    (Scanned, _x()["image"], {}, "'stack/input_quantizer'.*take nnx.scan"),
    (
      lambda rngs: _layer(rngs, kernel_quantizer=LSQ),
      _x()["image"],
      {},
      "those of kernels, which they have seen at creation",
    ),
    (
      lambda rngs: _layer(rngs, input_quantizer=quantizers.sign()),
      _x()["image"],
      {},
      "no quantizer of this model starts from a batch",
    ),
  ],
)
def test_nothing_to_set_is_an_error(make, x, options, text):
  model = make(nnx.Rngs(0))
  before = nnx.to_pure_dict(nnx.state(model))
  with pytest.raises(errors.UserError, match=text):
    nn.calibrate(model, x, **options)
  jax.tree.map(
    np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before
  )
