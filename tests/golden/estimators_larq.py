"""Larq's quantizers: estimators on vectors, quantizers on kernels."""

import re

import jax.numpy as jnp
import numpy as np

from jbin import estimators, quantizers
from tests.golden.compare import Reader, Vectors, pull

EXACT = 1e-6  # of gradients; values are exact
ROUNDED = 2e-6  # swish_sign
NUMBER = r"(None|[\d.]+)"


def _number(text: str) -> float | None:
  return None if text == "None" else float(text)


def _both(estimator, quantizer):
  """An estimator, and the quantizer that is it."""
  return estimator, lambda x: quantizer(x).value


def _sign(clip):
  clip = _number(clip)
  return _both(lambda x: estimators.ste_sign(x, clip), quantizers.sign(clip))


def _heaviside(clip):
  clip = _number(clip)
  return _both(
    lambda x: estimators.ste_heaviside(x, clip), quantizers.ste_heaviside(clip)
  )


def _tern(threshold, clip):
  least, clip = float(threshold), _number(clip)
  return _both(
    lambda x: estimators.ste_tern(x, least, clip),
    quantizers.ste_tern(least, clip=clip),
  )


def _approx():
  return _both(estimators.approx_sign, quantizers.bireal())


def _swish(beta):
  beta = float(beta)
  return _both(
    lambda x: estimators.swish_sign(x, beta), quantizers.swish_sign(beta)
  )


def _dorefa(bits):
  quantizer = quantizers.dorefa_activation(int(bits))
  return (lambda x: quantizer(x).value,)


ELEMENTWISE = {
  rf"ste_sign_clip{NUMBER}": _sign,
  rf"ste_heaviside_clip{NUMBER}": _heaviside,
  rf"ste_tern_thr{NUMBER}_clip{NUMBER}": _tern,
  r"approx_sign": _approx,
  rf"swish_sign_beta{NUMBER}": _swish,
  r"dorefa_act_k(\d+)": _dorefa,
}
KERNELS = {
  r"magnitude_aware_sign": lambda: quantizers.xnor(keep_scale=True),
  r"ste_tern_twn": lambda: quantizers.ste_tern(ternary_weight_networks=True),
  r"ste_sign": quantizers.sign,
  r"dorefa_w_k(\d+)": lambda k: quantizers.dorefa_weight(
    int(k), scaled_sign=False
  ),
}


def _member(table, name):
  """What the table has for a name, called with what its pattern captures."""
  for pattern, make in table.items():
    if found := re.fullmatch(pattern, name):
      return make(*found.groups())
  raise AssertionError(f"{name}: no member is compared with it")


def _elementwise(z: Reader, prefix: str, name: str):
  x, g = z[f"{prefix}x"], z[f"{prefix}g"]
  want, gradient = z[f"{prefix}{name}_out"], z[f"{prefix}{name}_gx"]
  tolerance = ROUNDED if name.startswith("swish") else EXACT
  for function in _member(ELEMENTWISE, name):
    y, (dx,) = pull(function, g, x)
    # n / n is 1, but the codes' share of n may be a unit off.
    loose = 2e-7 if name.startswith("dorefa") else 0
    np.testing.assert_allclose(y, want, rtol=loose, atol=0, err_msg=name)
    np.testing.assert_allclose(
      dx, gradient, rtol=tolerance, atol=tolerance, err_msg=name
    )


def _kernel(z: Reader, case: str, name: str):
  quantizer = _member(KERNELS, name)
  y, (dw,) = pull(lambda w: quantizer(w).value, z[f"{case}_g"], z[f"{case}_w"])
  near = {"rtol": EXACT, "atol": EXACT, "err_msg": name}
  np.testing.assert_allclose(y, z[f"{case}_{name}_out"], **near)
  np.testing.assert_allclose(dw, z[f"{case}_{name}_gw"], **near)


def larq_quantizers(vectors: Vectors):
  z = Reader(vectors)
  assert z["labels"].shape == z["x"].shape
  seen = set()
  for key in vectors:
    if found := re.fullmatch(r"(k\d+)_(.+)_out", key):
      _kernel(z, found[1], found[2])
    elif found := re.fullmatch(r"(sweep_)?(.+)_out", key):
      _elementwise(z, found[1] or "", found[2])
    else:
      continue
    seen.add(key)
  assert seen
  # NoOp has no vectors: it is the identity.
  x = jnp.asarray(z["sweep_x"])
  np.testing.assert_array_equal(quantizers.noop(1)(x).value, x)
  z.all_read()
