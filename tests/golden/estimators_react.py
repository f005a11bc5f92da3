"""ReActNet's sign and PReLU against the official code."""

import re

import numpy as np
from flax import nnx

from jbin import nn, quantizers
from tests.golden.compare import (
  Reader,
  Vectors,
  close,
  close_gradient,
  vjp_of,
)


def react_rsign_rprelu(z: Vectors):
  z = Reader(z)
  cases = sorted({key.split("__")[0] for key in z})
  kinds = {re.sub(r"\d+$", "", case) for case in cases}
  assert kinds == {"rsign", "rprelu"}
  for case in cases:
    _one(z, case)
  z.all_read()


def _one(z: Vectors, case: str):
  last = lambda name: np.moveaxis(z[f"{case}__{name}"], 1, -1)
  x = last("x")
  if case.startswith("rsign"):
    spec = quantizers.rsign(zero=0.0)
    module = nn.Quantizer(spec, x.shape[-1])
    learned = {"beta": module.learned["threshold"]}
    run = _Value(module)
  else:
    module = run = nn.RPReLU(x.shape[-1])
    learned = {
      name: getattr(module, name) for name in ("shift_in", "slope", "shift_out")
    }
  for name, variable in learned.items():
    variable[...] = z[f"{case}__{name}"].ravel()
  y, _, dparams, dx = vjp_of(run, x, last("gy"))
  close(y, last("out"), 5e-6)
  close_gradient(dx, last("grad_x"))
  flat = {path[-1]: leaf for path, leaf in nnx.to_flat_state(dparams)}
  for name in learned:
    mine = flat["threshold" if name == "beta" else name][...]
    close_gradient(mine, z[f"{case}__grad_{name}"].ravel())


class _Value(nnx.Module):
  """A quantizer's value."""

  def __init__(self, quantizer):
    self.quantizer = quantizer

  def __call__(self, x):
    return self.quantizer(x).value
