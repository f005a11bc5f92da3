"""ABC-Net's bases and LQ-Nets' levels against formulas in float64."""

import jax.numpy as jnp
import numpy as np

from jbin import quantizers
from jbin.quantizers import _abcnet
from tests.golden.compare import Reader
from tests.golden.estimators_steps import cases
from tests.golden.torch_layers import alone, kernel

NEAR = 1e-6


def near(got, want, tolerance=NEAR):
  """To `tolerance` of each entry, or of 1 below it."""
  np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def weight(spec, w, g, **values):
  """Value and gradients of a kernel quantizer, arranged as the kernel is."""
  y, dw, learned = alone(spec, kernel(w), np.float32(kernel(g)), **values)
  back = lambda x: np.moveaxis(np.moveaxis(np.asarray(x), -2, 0), -1, 0)
  return back(y), back(dw), learned


def abcnet(z: Reader, head: str, w, g):
  for case in cases(z, rf"({head}abc_M(\d+)_)u"):
    name, count = case[1], int(case[2])
    spec = quantizers.abcnet_weight(count)
    near(_abcnet.spread(count), z[case[0]])
    bases, alpha = spec.fit(jnp.asarray(kernel(w)))
    near(np.ravel(alpha), z[f"{name}alpha"])
    for m, base in enumerate(z[f"{name}B"]):
      np.testing.assert_array_equal(bases[..., m], kernel(base))
    y, dw, _ = weight(spec, w, g)
    near(y, z[f"{name}recon"])
    near(dw, z[f"{name}gw"])


def lqnet(z: Reader):
  for case in cases(z, r"(lq_act_b(\d+)_)x"):
    head, bits = case[1], int(case[2])
    x, basis = (np.float32(z[f"{head}{name}"]) for name in ("x", "basis"))
    spec = quantizers.lqnet_activation(bits)
    y, mask, _ = alone(spec, x, np.ones_like(x), basis=basis)
    near(y, z[f"{head}out"])
    np.testing.assert_array_equal(mask, z[f"{head}gradmask"])
    for rate, name in ((1.0, "new_basis"), (0.1, "basis_after_ema")):
      spec = quantizers.lqnet_activation(bits, rate)
      new = spec.update(jnp.asarray(x), progress=None, basis=jnp.asarray(basis))
      near(new["basis"], z[f"{head}{name}"])
